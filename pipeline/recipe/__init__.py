"""What a user writes: the schema of a recipe, its digest, and the paths that follow from it. No torch here.

May a bit change here? Only through `bits:`: the keys that are not marked NotBits are what recipe_id is the digest of.
"""

import json

from pipeline.recipe.artifacts import Artifacts as Artifacts
from pipeline.recipe.artifacts import Samples as Samples
from pipeline.recipe.data import BpeTokenizer as BpeTokenizer
from pipeline.recipe.data import FileSource as FileSource
from pipeline.recipe.data import GeneratedImages as GeneratedImages
from pipeline.recipe.data import GeneratedSource as GeneratedSource
from pipeline.recipe.data import HuggingFaceSource as HuggingFaceSource
from pipeline.recipe.data import ImageData as ImageData
from pipeline.recipe.data import PinnedSource as PinnedSource
from pipeline.recipe.data import ShardSplit as ShardSplit
from pipeline.recipe.data import Split as Split
from pipeline.recipe.data import TextData as TextData
from pipeline.recipe.data import UrlSource as UrlSource
from pipeline.recipe.load import as_written as as_written
from pipeline.recipe.load import load_recipe as load_recipe
from pipeline.recipe.load import parse_recipe as parse_recipe
from pipeline.recipe.models import Gpt as Gpt
from pipeline.recipe.models import TwoLayer as TwoLayer
from pipeline.recipe.recipe import Bits as Bits
from pipeline.recipe.recipe import Recipe as Recipe
from pipeline.recipe.recipe import recipe_id as recipe_id
from pipeline.recipe.strict import canonical as canonical
from pipeline.recipe.strict import digest_of as digest_of
from pipeline.recipe.training import AdamW as AdamW
from pipeline.recipe.training import Decay as Decay
from pipeline.recipe.training import Gpt2Init as Gpt2Init
from pipeline.recipe.training import Phases as Phases
from pipeline.recipe.training import Skip as Skip


def schema() -> str:
    """The JSON schema of a recipe, as workflow/schemas/recipe.schema.json holds it."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
