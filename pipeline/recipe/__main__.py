"""Check a recipe and say what it is: python -m pipeline.recipe config/recipes/fables.yaml."""

from cuda_ops.errors import exit_on_user_error
from pipeline.recipe.schema import main

exit_on_user_error(main)
