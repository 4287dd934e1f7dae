# Texts from the last checkpoint, for the recipes that ask for some.


rule sample:
    input:
        checkpoint=lambda wildcards: run_of(wildcards).file(
            at.sidecar_name(run_of(wildcards).recipe.bits.steps)
        ),
        tokens=lambda wildcards: run_of(wildcards).summary,
    output:
        report(
            update(f"{RUN}/{at.SAMPLES}"),
            category="{recipe}",
            labels={"part": "samples"},
        ),
    log:
        f"{LOGS}/{{recipe}}/sample.log",
    threads: 1
    resources:
        device="cpu",
        gpu=0,
    params:
        recipe=recipe_of,
        tokens=tokens_of,
        checkpoint=lambda wildcards, input: input.checkpoint.removesuffix(".sha256"),
        bits=lambda wildcards: f"{run_of(wildcards).id} {digest_of(run_of(wildcards).recipe.artifacts.samples)}",
        code=code("sample"),
        kernels=kernels("sample"),
    shell:
        "python -m pipeline.sample --recipe {params.recipe:q} --tokens {params.tokens:q}"
        " --checkpoint {params.checkpoint:q} --out {output:q}"
        " --device {resources.device} --threads {threads} --log {log:q}"
