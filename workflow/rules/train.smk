# Training, one segment per checkpoint. Execution is threads and resources: changing them reruns nothing.


rule train:
    input:
        tokens=lambda wildcards: run_of(wildcards).summary,
        previous=lambda wildcards: run_of(wildcards).previous_sha256(
            int(wildcards.step)
        ),
        init=lambda wildcards: RUNS.start(
            wildcards.recipe, int(wildcards.step), ".sha256"
        ),
    output:
        checkpoint=update(f"{RUN}/{at.checkpoint_name('{step}')}"),
        sha256=update(f"{RUN}/{at.sidecar_name('{step}')}"),
        chain=update(f"{RUN}/{at.chain_name('{step}')}"),
    log:
        f"{LOGS}/{{recipe}}/{at.log_name('train', '{step}')}",
    threads: ALL_CORES
    resources:
        ranks=1,
        device="cpu",
        gpu=0,
        micro_batch=4,
        recompute=0,
        rolling=30,
        keep=2,
        major=0,
        nodes=1,
        rendezvous="none",
        price="0",
    params:
        recipe=recipe_of,
        tokens=tokens_of,
        previous=lambda wildcards, input: run_of(wildcards).previous(
            int(wildcards.step)
        ),
        init=lambda wildcards, input: init_flags(wildcards.recipe, int(wildcards.step)),
        step=lambda wildcards, input: int(wildcards.step),
        cluster=cluster,
        bits=lambda wildcards: run_of(wildcards).id,
        code=code("train"),
        kernels=kernels("train"),
    shell:
        "python -m pipeline.train --recipe {params.recipe:q} --tokens {params.tokens:q}"
        " --previous {params.previous:q} {params.init:q} --steps-to {params.step} --out {output.checkpoint:q}"
        " --chain {output.chain:q} --ranks {resources.ranks} {params.cluster} --micro-batch {resources.micro_batch}"
        " --recompute {resources.recompute} --rolling {resources.rolling} --keep {resources.keep}"
        " --major {resources.major} --price {resources.price}"
        " --device {resources.device} --threads {threads} --log {log:q}"


# Weights that a recipe pins at a URL, shared by the recipes that begin from them.
rule weights:
    output:
        update(f"{at.RESULTS}/weights/{{folder}}/{{file}}"),
    log:
        f"{LOGS}/weights/{{folder}}.{{file}}.log",
    wildcard_constraints:
        folder=r"[0-9a-f]{8}",
        file=r"[^/]+",
    params:
        recipe=lambda wildcards, input: RUNS.of_weights(wildcards.folder).path,
        sha256=lambda wildcards: RUNS.of_weights(
            wildcards.folder
        ).recipe.bits.init.sha256,
    shell:
        "python -m pipeline.import_weights --recipe {params.recipe:q} --fetch --out {output:q} --log {log:q}"
