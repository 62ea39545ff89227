from compose.dsl import Average as Average
from compose.dsl import BatchSplit as BatchSplit
from compose.dsl import Drop as Drop
from compose.dsl import Fuse as Fuse
from compose.dsl import Parallel as Parallel
from compose.dsl import Route as Route
from compose.dsl import Split as Split
from compose.dsl import Stack as Stack
from compose.dsl import parse as parse
from compose.errors import ComposeError as ComposeError
from compose.heads.output import MultiHeadOutput as MultiHeadOutput
from compose.runtime.agreement import agreement as agreement
from compose.runtime.attach import attach as attach
from compose.runtime.attach import load as load
from compose.runtime.attach import load_plan as load_plan
from compose.runtime.merging import merge_adapters as merge_adapters
from compose.runtime.model import Model as Model
from compose.runtime.pruning import prune_fusion as prune_fusion
from compose.runtime.sharing import share_factors as share_factors
from compose.runtime.sharing import unshare_factors as unshare_factors
from compose.runtime.sparsity import prune_neurons as prune_neurons
from compose.runtime.sparsity import sparsify as sparsify
from compose.train.collator import TaskCollator as TaskCollator

__version__: str
