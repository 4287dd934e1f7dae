# Validation loss at every checkpoint, and the questions at the last.


rule evaluate:
    input:
        checkpoint=f"{RUN.folder}/step_{{step}}.safetensors.sha256",
        tokens=f"{RUN.tokens}/tokens.json",
        ops="results/build/ops.digest",
    output:
        f"{RUN.folder}/eval_{{step}}.json",
    log:
        f"{RUN.logs}/evaluate_{{step}}.log",
    threads: workflow.cores
    resources:
        device="cpu",
        gpu=0,
    params:
        tokens=lambda wildcards: RUN.tokens,
        run=lambda wildcards: RUN.folder,
        recipe=lambda wildcards: RUN.recipe_path,
        bits=recipe_id(RUN.recipe) + digest_of(RUN.recipe.artifacts),
        code=code_digest("pipeline.evaluate"),
    shell:
        "python -m pipeline.evaluate --recipe {params.recipe:q} --tokens {params.tokens:q}"
        " --checkpoint {params.run:q}/step_{wildcards.step}.safetensors --out {output:q}"
        " --device {resources.device} --threads {threads} 2>&1 | tee -i {log:q}"
