"""Defects of AdapterHub and PEFT as regression cases: each is a setup, and what it must give here."""
