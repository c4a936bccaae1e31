"""What is trained: one file per workload family.

`FAMILIES` is the registry. A new family is one file, one entry here and one row in
`tests/workloads/test_families.py`.
"""

from workloads.image_mlp import ImageMLP
from workloads.language_model import LanguageModel
from workloads.regression import Regression

FAMILIES = (LanguageModel, Regression, ImageMLP)
