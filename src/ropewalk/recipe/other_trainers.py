"""Names from other trainers, with our key for the same thing, or the reason why there is no such key.

A bare refusal of a key does not help. ``OURS`` maps a name to the key of a recipe. ``NONE`` explains in one line what
happens instead. ``VALUES`` holds other spellings of values.
"""

from collections.abc import Mapping

_STEPS = "a stage is as long as its tokens; its steps are tokens / step_tokens"
_EPOCHS = "a stage is as long as its tokens; corpus.max_repeats bounds how often a source is read"
_STEP_TOKENS = "tokens of a step over all ranks: sequences x context_length"
_SHARE = "a share of the stage's steps, not their number"
_SHARDED = "weights and states are always sharded over all ranks"
_ROPE = "such as {kind: yarn}; docs/rope.md has every method"
_LONG = "one length a stage; ranks that share a sequence are parallel.context_parallel"

_GROUPS: Mapping[str, tuple[str, str]] = {
    "model": (
        "model_name_or_path model_name base_model pretrained_model_name_or_path model_path model_id hf_model",
        "a folder, tiny-base, or hub_id@revision",
    ),
    "run": ("output_dir save_dir output_path out_dir checkpoint_dir save_folder work_dir logdir", "the run folder"),
    "seed": ("random_seed data_seed global_seed", ""),
    "corpus.sources": (
        "dataset dataset_name data_path train_file train_data data_files dataset_path train_dataset data train_files",
        "a list of {name, path, role}",
    ),
    "corpus.sources[].text_key": ("dataset_text_field text_column text_field content_key", ""),
    "corpus.mix": ("data_mix mixture dataset_weights mixing_weights probs interleave_probs data_weights", "in tokens"),
    "corpus.held_out": ("validation_split val_size test_size eval_split val_ratio validation_split_percentage", ""),
    "corpus.packing": ("sample_packing pack_sequences", ""),
    "corpus.worker_count": ("num_workers dataloader_num_workers preprocessing_num_workers num_proc", ""),
    "stages[].context_length": (
        "max_seq_length max_seq_len seq_length seq_len sequence_length sequence_len max_length block_size cutoff_len "
        "model_max_length max_position_embeddings context_len context_window n_ctx ctx_len context",
        _LONG,
    ),
    "stages[].rope": ("rope_scaling rope_parameters rope_theta rotary_base rope_base rope_freq_base rope_type", _ROPE),
    "stages[].rope.fixed_attention_factor": ("attention_factor attn_factor", "of yarn and longrope"),
    "corpus.sources[].options.template": ("chat_template conversation_template prompt_template", "plain or chat"),
    "stages[].tokens": ("train_tokens total_tokens max_tokens token_budget", ""),
    "stages[].step_tokens": (
        "batch_size global_batch_size train_batch_size batch_tokens gradient_accumulation_steps grad_accum_steps "
        "accumulate_grad_batches gradient_accumulation total_batch_size",
        _STEP_TOKENS,
    ),
    "stages[].micro_batch_size": (
        "per_device_train_batch_size micro_rows train_micro_batch_size_per_gpu per_device_batch_size",
        "sequences that a data rank takes at once",
    ),
    "stages[].lr": ("learning_rate peak_lr max_lr base_lr lr_max", ""),
    "stages[].schedule.shape": ("lr_scheduler_type lr_scheduler scheduler lr_decay_style lr_schedule", ""),
    "stages[].schedule.warmup": (
        "warmup_ratio warmup_steps num_warmup_steps lr_warmup_iters warmup_iters lr_warmup_fraction",
        _SHARE,
    ),
    "stages[].schedule.floor": ("min_lr min_lr_ratio lr_min_ratio min_lr_rate", "a share of the peak"),
    "stages[].betas": ("adam_beta1 adam_beta2 beta1 beta2 adam_betas", "two numbers, [0.9, 0.95]"),
    "stages[].max_grad_norm": ("clip gradient_clipping clip_grad grad_clip gradient_clip_val clip_grad_norm", ""),
    "stages[].layers[].window": ("sliding_window window_size attention_window", ""),
    "stages[].lora.rank": ("lora_r lora_rank", ""),
    "stages[].lora.alpha": ("lora_alpha", ""),
    "stages[].lora.modules": ("lora_target_modules target_modules lora_target", ""),
    "stages[].lora.also_train": ("modules_to_save additional_target trainable_modules", ""),
    "stages[].experts.balance_loss": (
        "router_aux_loss_coef moe_aux_loss_coeff moe_aux_loss_coef aux_loss_coef load_balancing_loss_weight",
        "per layer, over all tokens of a step; docs/experts.md converts the coefficient",
    ),
    "stages[].experts.z_loss": ("moe_z_loss_coeff router_z_loss_coef moe_z_loss_coef router_z_loss", ""),
    "stages[].experts.bias_update": ("moe_router_bias_update_rate bias_update_rate load_balance_coeff", ""),
    "stages[].experts.router": ("freeze_router freeze_moe_router train_router", "trained or frozen"),
    "stages[].checkpoint_steps": ("save_steps save_interval save_every checkpoint_interval ckpt_interval", ""),
    "stages[].save_total_limit": ("keep max_to_keep keep_last", "checkpoints of a stage"),
    "stages[].log_steps": ("panel_steps logging_steps log_interval log_every log_every_n_steps", ""),
    "stages[].validation.steps": ("eval_steps eval_interval val_check_interval eval_iters", ""),
    "parallel.ranks": (
        "nproc_per_node num_gpus gpus n_gpus devices world_size num_processes deepspeed fsdp fsdp_config zero_stage "
        "zero_optimization data_parallel_size",
        _SHARDED,
    ),
    "parallel.ulysses_degree": (
        "head_ranks ulysses_size ulysses_sequence_parallel_size ulysses_parallel_size",
        "ranks of the context ranks that share heads",
    ),
    "parallel.context_parallel": (
        "context_parallel_size sequence_parallel_size cp_size cp sequence_parallel ring_attn_size",
        "ranks that share one sequence",
    ),
    "parallel.precision": (
        "bf16 fp16 fp32 mixed_precision torch_dtype precision_type amp half_precision",
        "bfloat16 or float32; float16 is not supported, because it needs loss scaling",
    ),
    "parallel.recompute": (
        "gradient_checkpointing activation_checkpointing recompute_granularity recompute_activations",
        "auto, none, save_attention or full",
    ),
    "parallel.recompute_blocks": ("recompute_num_layers", "auto, or how many of the first blocks"),
    "parallel.kernels": ("use_liger_kernel use_liger liger_kernel enable_liger_kernel", "auto, torch or liger"),
    "parallel.compile": ("torch_compile use_compile", ""),
    "trackers": ("report_to wandb wandb_project logger tensorboard_dir logging", "a list such as [tensorboard]"),
    "stages[].pose": ("skip", "positions beyond the length of the sequence"),
    "stages[].rope_interpolation_steps": ("anneal_steps", ""),
    "stages[].merge_with_base": ("blend", "share of the trained weights"),
    "stages[].stop": ("until early_stopping", "ends the stage when a metric reaches a value"),
    "stages[].gate": ("promote", "conditions for the next stage"),
    "stages[].validation": ("panel", "held-out text while the stage trains"),
    "stages[].validation.truncated_tokens": ("near_tokens", ""),
    "stages[].guard.skipped_steps": ("skips max_skips", ""),
    "export.dtype": ("save_dtype save_precision", ""),
    "evaluate.answers": ("num_eval_samples max_eval_samples eval_samples", ""),
}
_LENGTHS: Mapping[str, str] = {
    "num_train_epochs num_epochs epochs max_epochs n_epochs": _EPOCHS,
    "max_steps train_iters total_steps num_steps max_iters max_train_steps train_steps": _STEPS,
}

OURS: Mapping[str, tuple[str, str]] = {
    **{name: (key, hint) for key, (names, hint) in _GROUPS.items() for name in names.split()},
    **{name: ("stages[].tokens", hint) for names, hint in _LENGTHS.items() for name in names.split()},
}
"""Another trainer's name -> (our key, what differs)."""

_REASONS: Mapping[str, str] = {
    "attn_implementation flash_attention flash_attn use_flash_attention use_flash_attention_2 attention_backend": (
        "the fastest attention that is installed is used automatically"
    ),
    "optim optimizer optimizer_type": "the optimizer is AdamW; parallel.states: 8bit keeps its moments as bytes",
    "adam_epsilon adam_eps eps optimizer_eps": "AdamW's epsilon is fixed",
    "lora_dropout dropout attention_dropout hidden_dropout neftune_noise_alpha label_smoothing_factor": (
        "there is no dropout and no label smoothing, so that a run is the same on any number of ranks"
    ),
    "load_in_4bit load_in_8bit quantization_config quantization qlora": (
        "base weights are not quantised; stages[].lora trains adapters, parallel.states: 8bit shrinks the moments"
    ),
    "expert_parallel expert_parallel_size expert_model_parallel_size ep_size ep expert_parallel_degree": (
        "experts are sharded over all ranks and gathered; sending tokens to experts instead moves less only below "
        "1.5 x experts x inner width / chosen experts tokens a rank (docs/experts.md)"
    ),
    "tensor_parallel_size tensor_model_parallel_size tp_size tp pipeline_parallel_size "
    "pipeline_model_parallel_size pp_size pp": (
        "weights are sharded over all ranks, a sequence over parallel.context_parallel of them; there is no other "
        "parallelism"
    ),
    "resume_from_checkpoint resume resume_from load_checkpoint auto_resume": (
        "the same command continues from the newest complete checkpoint"
    ),
    "shuffle shuffle_seed train_on_inputs": "`seed` draws the order of sequences; the loss follows a source's options",
    "tokenizer_name tokenizer_name_or_path tokenizer_path use_fast_tokenizer trust_remote_code": (
        "the tokenizer is the model's own tokenizer.json, and no code of a model folder is run"
    ),
    "do_train do_eval overwrite_output_dir stage_type training_type": "the command decides it: ropewalk train, "
    "evaluate, run",
}
NONE: Mapping[str, str] = {name: why for names, why in _REASONS.items() for name in names.split()}
"""Another trainer's name -> the reason why there is no such key."""

VALUES: Mapping[str, str] = {
    "bf16": "bfloat16", "bf_16": "bfloat16", "torch.bfloat16": "bfloat16", "fp16": "bfloat16", "float16": "bfloat16",
    "half": "bfloat16", "fp32": "float32", "f32": "float32", "float": "float32", "torch.float32": "float32",
    "default": "unchanged", "pi": "linear", "abf": "theta", "ntk_aware": "ntk", "dynamic_ntk": "dynamic",
    "su": "longrope", "cosine_with_min_lr": "cosine", "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd", "pretrain": "general", "sft": "instruction", "chat": "instruction", "off": "none",
    "False": "none", "int8": "8bit", "cpu": "host",
    "needed": "needed_kv",
}  # fmt: skip
"""Another spelling of a value -> our spelling, for a key that accepts our value."""


def translate(name: str) -> str | None:
    """Advice for another trainer's ``name``: our key, or the reason why there is none; None for an unlisted name."""
    if name in OURS:
        key, hint = OURS[name]
        return f"here it is {key}{f' ({hint})' if hint else ''}"
    return NONE.get(name)
