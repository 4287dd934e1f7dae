"""Which tests `make test` leaves out, each with the shorter one that stands for its kind of proof.

    pytest -m slow              these
    pytest -m "not slow"        make test
    pytest                      make test-all

A key is the name of a test, with its parameters in brackets where only some are long. tests/test_layout.py holds that every key and
every stand-in is a test, and that no stand-in is itself slow.
"""

from __future__ import annotations

SLOW = {
    # the whole road of another kind of corpus
    "test_pinned_files_go_the_whole_road_into_llm_c_shards": "test_a_net_over_images_goes_the_whole_road",
    # a rank that fails: over gloo where what is like NCCL is harder
    **{
        f"test_a_rank_that_fails_is_named_and_the_others_end[{fault}-gloo]": f"test_a_rank_that_fails_is_named_and_the_others_end[{fault}-as NCCL]"
        for fault in ("user", "kill", "kill within an exchange", "stop", "hang")
    },
    "test_a_rank_that_computes_without_an_end_is_named[9]": "test_a_rank_that_computes_without_an_end_is_named[1]",
    "test_a_stop_of_every_kind_is_passed_on[2]": "test_a_stop_of_every_kind_is_passed_on[15]",
    # kills and damage: kills at random, beside the faults of tests/evidence
    "test_random_kills_lose_no_bit": "test_faults_lose_no_bit_and_no_file",
    "test_a_polite_stop_saves_and_goes_on[1]": "test_a_polite_stop_saves_and_goes_on[15]",
    "test_a_polite_stop_saves_and_goes_on[2]": "test_a_polite_stop_saves_and_goes_on[15]",
    "test_skipping_has_one_digest_over_ranks_kills_and_resumes": "test_an_outlier_does_not_enter_the_window_but_the_third_in_a_row_does",
    "test_ranks_end_together_where_the_chain_has_no_room": "test_a_full_disk_of_the_chain_is_found_at_its_step[of a refusal-on the way]",
    # one digest over ranks, compilers, architectures
    "test_the_first_step_of_gpt2_124m_on_two_ranks_is_the_published_one": "test_ranks[2]",
    "test_ranks[4]": "test_ranks[2]",
    "test_ranks[2, every way]": "test_ranks[2]",
    "test_ranks_of_a_launcher_that_is_process_1": "test_ranks[2]",
    "test_environment_and_folder[env1]": "test_environment_and_folder[env0]",
    "test_environment_and_folder[env2]": "test_environment_and_folder[env0]",
    "test_compilers_and_optimisation_levels": "test_native[clang++-14-3-v3-needs1]",
    "test_native[g++-2-v4-needs2]": "test_native[clang++-14-3-v3-needs1]",
    "test_foreign": "test_other_architectures_give_the_same_bits[aarch64]",
    "test_other_architectures_give_the_same_bits[riscv64]": "test_other_architectures_give_the_same_bits[aarch64]",
    "test_every_step_and_weight_is_equal[permutation, linear, clipping off]": "test_every_step_and_weight_is_equal[random, wsd]",
    # every kernel with an instrument in it
    "test_no_kernel_leaves_its_arrays": "test_a_fault_in_a_copied_kernel_is_seen",
    # sabotage: each variant is a checkout, a library and a run of its own
    "test_a_variant_is_seen_and_named[left fold]": "test_a_variant_is_seen_and_named[two lanes swapped]",
    "test_a_variant_is_seen_and_named[counter of the order off by one]": "test_a_variant_is_seen_and_named[two lanes swapped]",
    "test_a_variant_is_seen_and_named[counter of the initial weights off by one]": "test_a_variant_is_seen_and_named[two lanes swapped]",
    "test_a_variant_is_seen_and_named[a micro-batch that does not continue the chain]": "test_a_variant_is_seen_and_named[two lanes swapped]",
    "test_a_variant_is_seen_and_named[libm's exp]": "test_a_variant_is_seen_and_named[contraction in one file]",
    "test_a_variant_is_seen_and_named[flush to zero by a foreign library]": "test_a_variant_is_seen_and_named[contraction in one file]",
    "test_the_foreign_library_alone_changes_nothing": "test_equal_runs_are_equal",
    "test_a_run_resumed_from_an_altered_checkpoint[B]": "test_a_run_resumed_from_an_altered_checkpoint[A]",
    # CUDA sources on a CPU
    "test_steps_have_the_digests_of_the_cpu[int8x1-random:1]": "test_steps_have_the_digests_of_the_cpu[int8x3-random:1]",
    "test_cuda_sources_on_the_cpu[forward]": "test_cuda_sources_on_the_cpu[random:5]",
    "test_cuda_sources_on_the_cpu[reverse]": "test_cuda_sources_on_the_cpu[random:5]",
    "test_op_tests_on_cuda_sources": "test_cuda_sources_on_the_cpu[random:5]",
    "test_sabotage_is_seen[columns: tokens backwards]": "test_sabotage_is_seen[columns: no barrier]",
    "test_sabotage_is_seen[rows: fold by neighbours]": "test_sabotage_is_seen[columns: no barrier]",
    "test_sabotage_is_seen[embedding: matches backwards]": "test_sabotage_is_seen[embedding: no barrier]",
    "test_sabotage_is_seen[cross-entropy: one buffer]": "test_sabotage_is_seen[embedding: no barrier]",
    # products in digits: processes and programs of their own
    "test_sabotage_of_digits_is_seen[bf16: a and b in two orders of k]": "test_sabotage_of_digits_is_seen[bf16: a digit widened wrongly]",
    "test_sabotage_of_digits_is_seen[wgmma: no wait for the operands]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[wgmma: no wait for the product]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[wgmma: no wait for an empty stage]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[wgmma: given back before the scales]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[wgmma: chunks of the wrong step]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[wgmma: 16 bytes that never come]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[wgmma: second digits twice]": "test_sabotage_of_digits_is_seen[wgmma: given back before the product]",
    "test_sabotage_of_digits_is_seen[product: no wait]": "test_sabotage_of_digits_is_seen[product: no barrier]",
    "test_sabotage_of_digits_is_seen[product: values of the wrong step]": "test_sabotage_of_digits_is_seen[product: no barrier]",
    "test_sabotage_of_digits_is_seen[product: second digits twice]": "test_sabotage_of_digits_is_seen[product: no barrier]",
    "test_sabotage_of_digits_is_seen[attention: a key too many]": "test_sabotage_of_digits_is_seen[product: no barrier]",
    "test_ranks_and_instruction_sets": "test_micro_batch_threads_recompute_and_pieces",
    "test_instruction_sets_agree": "test_each_output_is_the_definition_s",
    "test_sabotage_is_seen[truncation for ties to even]": "test_sabotage_is_seen[a digit off by one]",
    "test_sabotage_is_seen[a saturating instruction]": "test_sabotage_is_seen[a digit off by one]",
    "test_sabotage_is_seen[a block that does not begin anew with the sequence]": "test_sabotage_is_seen[a digit off by one]",
    "test_sabotage_is_seen[a scale that sees the future]": "test_later_tokens_change_no_earlier_bit",
    # PTX of all six architectures, with their registers
    "test_ptx_is_rounded_arithmetic_only": "test_ptx_of_small_kernels_is_rounded_arithmetic_only",
    "test_nothing_depends_on_contraction": "test_contraction_is_seen",
    "test_no_kernel_spills": "test_spills_are_seen",
    "test_the_table_is_current": "test_ptx_of_small_kernels_is_rounded_arithmetic_only",
    "test_the_library_for_all_architectures_works_on_the_cpu": "test_flags_name_every_architecture_once",
    "test_the_harness_own_model_gives_our_likelihoods": "test_likelihoods_are_those_of_a_row_alone",
    "test_the_harness_finds_our_scores": "test_likelihoods_are_those_of_a_row_alone",
    "test_imported_weights_are_evaluated_sampled_and_begun_from": "test_in_and_out_again_is_the_same_bytes[small]",
    "test_transformers_reads_ours_and_we_read_its": "test_in_and_out_again_is_the_same_bytes[small]",
    # whole commands
    "test_the_graph_of_a_recipe_needs_no_data[all]": "test_the_graph_of_a_recipe_needs_no_data[two]",
    "test_brief_proof_on_the_cpu_in_two_commands": "test_a_failed_or_hanging_part_does_not_stop_the_others",
    "test_an_elementary_function_has_its_published_fingerprint": "test_error_and_fingerprint[cos_turn]",
    "test_the_cost_of_the_evidence_is_measured": "test_it_runs_on_cpu_tensors",
    "test_the_page_is_whole_and_self_contained[False]": "test_the_page_is_whole_and_self_contained[True]",
    "test_recipes_share_a_corpus_and_never_rerun_each_other": "test_a_question_source_plans_its_making_and_evaluation_alone",
    "test_a_text_of_ones_own": "test_edits_rerun_exactly_what_depends",
    "test_the_commands_of_the_pages_run": "test_every_command_is_run_or_has_a_reason",
    "test_what_a_message_names_makes_the_file_again": "test_a_rerun_that_fails_costs_no_checkpoint",
    **{
        f"test_a_stop_saves_and_is_one_line[{who}]": "test_a_stop_saves_and_is_one_line[group]"
        for who in ("snakemake", "terminal", "killed")
    },
    "test_a_killed_snakemake_leaves_a_lock_and_the_way_out": "test_mistakes_are_named_before_the_graph",
    "test_a_checkout_in_a_path_with_spaces": "test_the_same_recipe_elsewhere_is_the_same_run",
}


# Files that take longest, longest first; the second waits more than it computes.
LONG_FILES = (
    "test_workflow.py", "test_launch.py", "test_ptx_audit.py", "test_invariance.py", "test_kills.py", "test_screen.py", "test_devices.py",
    "test_commands.py", "test_gpu_proof.py", "test_faults.py", "test_cuda_sources.py", "test_sabotage.py", "test_attention_cuda.py",
    "test_matrix.py", "test_digits_portable.py", "test_trigger.py", "test_old_files.py", "test_benchmarks.py", "test_sanitized.py",
    "test_portable.py", "test_stages.py",
)  # fmt: skip


def is_slow(name: str) -> bool:
    """Whether a test, by its name with parameters, is slow."""
    return name in SLOW or name.split("[")[0] in SLOW
