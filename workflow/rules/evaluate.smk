# The recipe's scores: some at every checkpoint, some at the last.


rule evaluate:
    input:
        checkpoint=f"{RUN}/{at.sidecar_name('{step}')}",
        tokens=lambda wildcards: run_of(wildcards).summary,
        questions=lambda wildcards: run_of(wildcards).questions(int(wildcards.step)),
    output:
        update(f"{RUN}/{at.eval_name('{step}')}"),
    log:
        f"{LOGS}/{{recipe}}/{at.log_name('evaluate', '{step}')}",
    threads: ALL_CORES
    resources:
        device="cpu",
        gpu=0,
    params:
        recipe=recipe_of,
        tokens=tokens_of,
        checkpoint=lambda wildcards, input: input.checkpoint.removesuffix(".sha256"),
        bits=lambda wildcards: evaluated_bits(run_of(wildcards), int(wildcards.step)),
        code=code("evaluate"),
        kernels=kernels("evaluate"),
    shell:
        "python -m pipeline.evaluate --recipe {params.recipe:q} --tokens {params.tokens:q}"
        " --checkpoint {params.checkpoint:q} --out {output:q}"
        " --device {resources.device} --threads {threads} --log {log:q}"
