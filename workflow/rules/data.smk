# Corpus and tokens.


rule download:
    output:
        documents=f"{DATA}/documents.jsonl",
        choices=f"{DATA}/choices.jsonl",
        source=f"{DATA}/source.json",
    log:
        f"{LOGS}/download.log",
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        bits=digest_of(RECIPE.bits.data.source),
        code=code_digest("pipeline.download"),
    shell:
        "python -m pipeline.download --recipe {params.recipe:q} --out {DATA:q} > {log:q} 2>&1"


rule vocabulary:
    output:
        "results/data/gpt2_bpe/encoder.json",
        "results/data/gpt2_bpe/vocab.bpe",
    log:
        "results/logs/vocabulary.log",
    params:
        pins=lambda wildcards: os.path.relpath(
            ROOT / "config" / "data" / "gpt2_bpe.yaml"
        ),
        code=code_digest("pipeline.download"),
    shell:
        "python -m pipeline.download --pins {params.pins:q} --out results/data/gpt2_bpe > {log:q} 2>&1"


rule prepare_text:
    input:
        source=f"{DATA}/source.json",
        vocabulary=(
            rules.vocabulary.output
            if RECIPE.bits.data.tokenizer.kind == "gpt2"
            else []
        ),
    output:
        f"{TOKENS}/tokens.json",
        f"{TOKENS}/tokenizer.json",
        f"{TOKENS}/choices.json",
        f"{TOKENS}/train_documents.npy",
        f"{TOKENS}/val_documents.npy",
        f"{TOKENS}/val_000000.bin",
        [f"{TOKENS}/{name}" for name in paths.train_shards(RECIPE)],
    log:
        f"{LOGS}/prepare_text.log",
    threads: workflow.cores
    params:
        recipe=lambda wildcards: RECIPE_PATH,
        bits=digest_of(RECIPE.bits.data) + digest_of(RECIPE.bits.model),
        code=code_digest("pipeline.prepare_text"),
    shell:
        "python -m pipeline.prepare_text --recipe {params.recipe:q} --data {DATA:q} --out {TOKENS:q}"
        " --threads {threads} > {log:q} 2>&1"
