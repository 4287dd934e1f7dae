"""What a user writes: the schema of a recipe, its digest, and the paths that follow from it. No torch here.

May a bit change here? Only through `bits:`: the keys that are not marked NotBits are what recipe_id is the digest of.
"""

from pipeline.recipe.schema import (
    AdamW as AdamW,
)
from pipeline.recipe.schema import (
    Artifacts as Artifacts,
)
from pipeline.recipe.schema import (
    Batch as Batch,
)
from pipeline.recipe.schema import (
    Bits as Bits,
)
from pipeline.recipe.schema import (
    BpeTokenizer as BpeTokenizer,
)
from pipeline.recipe.schema import (
    CharTokenizer as CharTokenizer,
)
from pipeline.recipe.schema import (
    Data as Data,
)
from pipeline.recipe.schema import (
    FileSource as FileSource,
)
from pipeline.recipe.schema import (
    GeneratedSource as GeneratedSource,
)
from pipeline.recipe.schema import (
    Gpt as Gpt,
)
from pipeline.recipe.schema import (
    Gpt2Tokenizer as Gpt2Tokenizer,
)
from pipeline.recipe.schema import (
    HuggingFaceSource as HuggingFaceSource,
)
from pipeline.recipe.schema import (
    Init as Init,
)
from pipeline.recipe.schema import (
    Name as Name,
)
from pipeline.recipe.schema import (
    Positive as Positive,
)
from pipeline.recipe.schema import (
    Recipe as Recipe,
)
from pipeline.recipe.schema import (
    Samples as Samples,
)
from pipeline.recipe.schema import (
    Schedule as Schedule,
)
from pipeline.recipe.schema import (
    Sha256 as Sha256,
)
from pipeline.recipe.schema import (
    Source as Source,
)
from pipeline.recipe.schema import (
    Split as Split,
)
from pipeline.recipe.schema import (
    Strict as Strict,
)
from pipeline.recipe.schema import (
    Tokenizer as Tokenizer,
)
from pipeline.recipe.schema import (
    UrlSource as UrlSource,
)
from pipeline.recipe.schema import (
    canonical as canonical,
)
from pipeline.recipe.schema import (
    digest_of as digest_of,
)
from pipeline.recipe.schema import (
    load_recipe as load_recipe,
)
from pipeline.recipe.schema import (
    main as main,
)
from pipeline.recipe.schema import (
    parse_recipe as parse_recipe,
)
from pipeline.recipe.schema import (
    recipe_id as recipe_id,
)
from pipeline.recipe.schema import (
    schema as schema,
)
