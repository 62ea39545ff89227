"""Reports: what runs did and found, as one self-contained page of HTML and as Markdown."""
