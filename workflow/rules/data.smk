# Corpus and tokens.


rule download:
    output:
        documents=f"{RUN.data}/documents.jsonl",
        choices=f"{RUN.data}/choices.jsonl",
        source=f"{RUN.data}/source.json",
    log:
        f"{RUN.logs}/download.log",
    params:
        data=lambda wildcards: RUN.data,
        recipe=lambda wildcards: RUN.recipe_path,
        bits=digest_of(BITS.data.source),
        code=code_digest("pipeline.download"),
    shell:
        "python -m pipeline.download --recipe {params.recipe:q} --out {params.data:q} > {log:q} 2>&1"


rule vocabulary:
    output:
        "results/data/gpt2_bpe/encoder.json",
        "results/data/gpt2_bpe/vocab.bpe",
    log:
        "results/logs/vocabulary.log",
    params:
        pins=lambda wildcards: RUN.pins("gpt2_bpe"),
        code=code_digest("pipeline.download"),
    shell:
        "python -m pipeline.download --pins {params.pins:q} --out results/data/gpt2_bpe > {log:q} 2>&1"


rule prepare_text:
    input:
        source=f"{RUN.data}/source.json",
        vocabulary=(
            rules.vocabulary.output if BITS.data.tokenizer.kind == "gpt2" else []
        ),
    output:
        f"{RUN.tokens}/tokens.json",
        f"{RUN.tokens}/tokenizer.json",
        f"{RUN.tokens}/choices.json",
        f"{RUN.tokens}/train_documents.npy",
        f"{RUN.tokens}/val_documents.npy",
        f"{RUN.tokens}/val_000000.bin",
        RUN.shards,
    log:
        f"{RUN.logs}/prepare_text.log",
    threads: workflow.cores
    params:
        data=lambda wildcards: RUN.data,
        tokens=lambda wildcards: RUN.tokens,
        recipe=lambda wildcards: RUN.recipe_path,
        bits=digest_of(BITS.data) + digest_of(BITS.model),
        code=code_digest("pipeline.prepare_text"),
    shell:
        "python -m pipeline.prepare_text --recipe {params.recipe:q} --data {params.data:q} --out {params.tokens:q}"
        " --threads {threads} > {log:q} 2>&1"
