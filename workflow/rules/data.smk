# Corpora, and what training reads of them. A folder belongs to all recipes whose data are shaped alike: nothing of one
# recipe is compared.


rule download:
    output:
        update(f"{CORPUS}/{at.DOCUMENTS}"),
        update(f"{CORPUS}/{at.QUESTIONS}"),
        update(f"{CORPUS}/{at.SOURCE}"),
    log:
        f"{LOGS}/data/{{corpus}}/download.log",
    wildcard_constraints:
        corpus=RUNS.by_source(pinned=False),
    params:
        recipe=corpus_recipe,
        out=folder,
        bits=source_bits,
        code=corpus_code("download"),
    shell:
        "python -m pipeline.download --recipe {params.recipe:q} --out {params.out:q} --log {log:q}"


# The files of a pin file, one job each, so that some come while others are checked, and none comes twice.
rule fetch:
    output:
        update(f"{CORPUS}/{at.RAW}/{{file}}"),
    log:
        f"{LOGS}/data/{{corpus}}/fetch/{{file}}.log",
    wildcard_constraints:
        corpus=RUNS.by_source(pinned=True),
        file=one_of(name for names in PINNED.values() for name in names),
    params:
        pins=lambda wildcards, output: pins_path(
            of_corpus(wildcards).recipe.bits.data.source.pins
        ),
        out=lambda wildcards, output: output[0][: -len(wildcards.file) - 1],
        sha256=pinned_sha256,
    shell:
        "python -m pipeline.download --pins {params.pins:q} --file {wildcards.file:q} --out {params.out:q} --log {log:q}"


# Checks them, and counts their documents; brings those that only the hub can list.
rule download_pinned:
    input:
        lambda wildcards: expand(
            f"{CORPUS}/{at.RAW}/{{file}}",
            corpus=wildcards.corpus,
            file=PINNED[wildcards.corpus],
        ),
    output:
        update(f"{CORPUS}/{at.QUESTIONS}"),
        update(f"{CORPUS}/{at.SOURCE}"),
    log:
        f"{LOGS}/data/{{corpus}}/download.log",
    wildcard_constraints:
        corpus=RUNS.by_source(pinned=True),
    params:
        recipe=corpus_recipe,
        out=folder,
        bits=source_bits,
        code=corpus_code("download"),
    shell:
        "python -m pipeline.download --recipe {params.recipe:q} --out {params.out:q} --log {log:q}"


rule download_images:
    output:
        update(f"{CORPUS}/{at.IMAGES}"),
        update(f"{CORPUS}/{at.SOURCE}"),
    log:
        f"{LOGS}/data/{{corpus}}/download.log",
    wildcard_constraints:
        corpus=RUNS.corpora("images"),
    params:
        recipe=corpus_recipe,
        out=folder,
        bits=source_bits,
        code=corpus_code("download"),
    shell:
        "python -m pipeline.download --recipe {params.recipe:q} --out {params.out:q} --log {log:q}"


rule vocabulary:
    output:
        [update(f"{at.GPT2_BPE}/{name}") for name in at.VOCABULARY],
    log:
        f"{LOGS}/data/vocabulary.log",
    params:
        pins=lambda wildcards, output: pins("gpt2_bpe")[0],
        sha256=pins("gpt2_bpe")[1],
    shell:
        f"python -m pipeline.download --pins {{params.pins:q}} --out {at.GPT2_BPE} --log {{log:q}}"


# One rule per corpus and number of shards, because a rule's outputs are fixed; nearly always there is one.
for nth, (corpus, shards, folders) in enumerate(RUNS.by_shards("text")):

    rule:
        name:
            "prepare_text" if nth == 0 else f"prepare_text_{nth + 1}"
        input:
            documents=documents_of_corpus,
            source=f"{CORPUS}/{at.SOURCE}",
            questions=f"{CORPUS}/{at.QUESTIONS}",
            vocabulary=vocabulary_of,
        output:
            update(f"{TOKENS}/{at.SUMMARY}"),
            update(f"{TOKENS}/{at.TOKENIZER}"),
            update(f"{TOKENS}/{at.CHOICES}"),
            update(f"{TOKENS}/{at.TRAIN_STARTS}"),
            update(f"{TOKENS}/{at.VALIDATION_STARTS}"),
            update(f"{TOKENS}/{at.VALIDATION}"),
            [update(f"{TOKENS}/{name}") for name in at.shard_names(shards)],
        log:
            f"{LOGS}/data/{{corpus}}/{{prepared}}.log",
        wildcard_constraints:
            corpus=corpus,
            prepared=folders,
        threads: ALL_CORES
        params:
            recipe=corpus_recipe,
            data=lambda wildcards, input: str(Path(input.source).parent),
            out=folder,
            bits=preparation_bits,
            code=corpus_code("prepare_text"),
        shell:
            "python -m pipeline.prepare_text --recipe {params.recipe:q} --data {params.data:q} --out {params.out:q}"
            " --threads {threads} --log {log:q}"


# Questions with a source of their own: apart from the corpus' own, so that training does not wait for them.
rule prepare_questions:
    input:
        tokens=f"{TOKENS}/{at.SUMMARY}",
        tokenizer=f"{TOKENS}/{at.TOKENIZER}",
        vocabulary=vocabulary_of,
    output:
        update(f"{TOKENS}/{at.choices_name('{questions}')}"),
        update(f"{TOKENS}/{at.record_name('{questions}')}"),
    log:
        f"{LOGS}/data/{{corpus}}/{{prepared}}.{{questions}}.log",
    wildcard_constraints:
        corpus=RUNS.corpora("text"),
        questions=RUNS.questions(),
    priority: 1  # before training: what the vocabulary cannot write is better known now
    params:
        recipe=lambda wildcards, input: of_questions(wildcards).path,
        data=lambda wildcards, input: of_questions(wildcards).data,
        tokens=folder,
        bits=lambda wildcards: wildcards.questions,  # the digest of the source is in it
        code=lambda wildcards: of_questions(wildcards).trigger(
            "prepare_questions", kernels=False
        ),
    shell:
        "python -m pipeline.prepare_questions --recipe {params.recipe:q} --data {params.data:q}"
        " --tokens {params.tokens:q} --stem {wildcards.questions:q} --log {log:q}"


rule prepare_images:
    input:
        images=f"{CORPUS}/{at.IMAGES}",
        source=f"{CORPUS}/{at.SOURCE}",
    output:
        update(f"{TOKENS}/{at.SUMMARY}"),
        update(f"{TOKENS}/{at.VALIDATION}"),
        [update(f"{TOKENS}/{name}") for name in at.shard_names(1)],
    log:
        f"{LOGS}/data/{{corpus}}/{{prepared}}.log",
    wildcard_constraints:
        corpus=RUNS.corpora("images"),
    params:
        recipe=corpus_recipe,
        data=lambda wildcards, input: str(Path(input.source).parent),
        out=folder,
        bits=preparation_bits,
        code=corpus_code("prepare_images"),
    shell:
        "python -m pipeline.prepare_images --recipe {params.recipe:q} --data {params.data:q} --out {params.out:q}"
        " --log {log:q}"
