"""The words in and under figures, in English and Chinese."""

from __future__ import annotations

CAPTIONS: dict[str, dict[str, str]] = {
    "en": {
        # in figures
        "fig_lower": "lower is better",
        "fig_higher": "higher is better",
        "fig_trained": "trained",
        "fig_step": "step",
        "fig_training_loss": "training loss",
        "fig_lr": "learning rate",
        "fig_beyond": "beyond the axis:",
        "fig_effect": "effect: first arm minus second",
        "fig_no_value": "no value yet",
        "fig_flops": "FLOPs of training",
        "fig_seconds": "seconds of training",
        "fig_parameters": "parameters",
        "fig_kept": "{trained} trained, {frozen} frozen",
        "fig_frozen": "frozen",
        "fig_others": "others",
        "fig_edge": "edge of the grid",
        "fig_all_variants": "all variants",
        "fig_layer": "layer {n}",
        "fig_layers": "layers {n}",
        "fig_pairs": "{ones} of {pairs}, {share}",
        "fig_reads": "token that reads",
        "fig_is_read": "token that is read",
        "fig_reference": "(baseline)",
        "fig_train_split": "train split",
        "fig_tokens": "{axis} (tokens)",
        "fig_span_seed": "L50 of a seed",
        "fig_span_median": "L50, median seed",
        "fig_span_range": "lowest to highest seed",
        "fig_span_beyond": "beyond what was asked",
        "fig_span_effective": "effective window",
        "fig_span_window": "direct window",
        "fig_span_field": "theoretical field",
        "fig_state_bytes": "state carried (bytes)",
        # under figures
        "cap_primary": "{metric} by condition.",
        "cap_learning": "{metric} against {axis}: one line an arm, each point trained anew.",
        "cap_baseline": "Baseline arm: {arm}.",
        "cap_train": "Thin and dashed: the same arm on the split that it was trained on.",
        "cap_bands": "Lines: means; bands: {level} t-intervals over seeds; points: single seeds. "
        "Arms share their seeds: verdicts rest on differences within a seed and are sharper.",
        "cap_bands_only": "Lines: means; bands: {level} t-intervals over seeds. Arms share their "
        "seeds: verdicts rest on differences within a seed and are sharper.",
        "cap_none": "No value yet: {names}.",
        "cap_rows": "Points: means; bars: {level} t-intervals over seeds; faint: single seeds. "
        "Arms share their seeds: verdicts rest on differences within a seed and are sharper.",
        "cap_seeds": "Points: the only seed.",
        "cap_hollow": "Hollow: fewer seeds than planned, not comparable yet.",
        "cap_gap": "Gaps: no value there ({n} of {all} cells).",
        "cap_imported": "Dashed grey, squares: measured elsewhere, in no test.",
        "cap_far": "Trivial baselines beyond the axis: {names}.",
        "cap_slices": "{metric} by slice of the evaluation items; below each level: how many.",
        "cap_probe": "{evaluation}: solid, the share that is right; dashed, of the same tokens "
        "without what is to be remembered; below, the difference. Bands: {level} t-intervals over "
        "seeds. Vertical: the direct window (dashed), the theoretical field (dotted).",
        "cap_spans": "{evaluation}: where accuracy, corrected for the control where there is one, "
        "falls to a half: the median seed, the line from the lowest to the highest, faint: single "
        "seeds.",
        "cap_spans_effective": "Diamonds: the effective window, up to which the gain is above 0 by "
        "the lower end of its {level} t-interval over seeds.",
        "cap_spans_marks": "Ticks: the direct window (dashed) and the theoretical field (dotted) "
        "of the arm; what lies far beyond the axis is left out.",
        "cap_beyond": "Arrows: beyond what was asked, at the last place that was; no number "
        "stands there.",
        "cap_state": "{evaluation}: spans against the bytes that a model carries at the end of a "
        "row of its task, at four bytes a number; arms of equal bytes stand side by side.",
        "cap_state_effective": "Points: the effective window, up to which the gain is above 0 by "
        "the lower end of its {level} t-interval over seeds.",
        "cap_state_half": "Points: L50 of the median seed; lines: from the lowest to the highest.",
        "cap_rows_only": "Dots: means; bars: {level} t-intervals over seeds.",
        "cap_sliced_trivial": "Grey: trivial baselines on the slice.",
        "cap_along": "Within each level from left to right: {factor} = {levels}.",
        "cap_heat": "{metric} by {rows} and {columns}; the darker, the better.",
        "cap_over": "Each square is the mean over {over} and seeds.",
        "cap_uneven": "Not every square has the same levels of {over}: compare those that have.",
        "cap_hatched": "Hatched: values are missing (there / planned).",
        "cap_forest": "Contrasts of the hypotheses with {level} intervals; faint points: seeds; "
        "dark ticks: the size that the claim is about. Green: supported, red: refuted, "
        "amber: inconclusive.",
        "cap_tuning": "Tuning curves on the selection split ({rule}); filled: chosen.",
        "cap_training": "Evaluations during training; thick: means over all seeds, thin: seeds.",
        "cap_curves": "Training loss of each trial.",
        "cap_curves_mean": "Training loss, mean over the seeds of each variant.",
        "cap_colours": "Colours: {factor}.",
        "cap_lr": "Learning rate as realised, each distinct course once.",
        "cap_cost": "Cost against {metric}, mean over the conditions; dashed: what no other "
        "variant beats in both.",
        "cap_parameters": "What each arm trains (filled) and freezes (hatched), by category, as "
        "recorded; a bias counts with its matrix.",
        "cap_merged": "“+ n”: so many further arms have the same bar.",
        "cap_shared": "Seconds depend on what else the machine did.",
    },
    "zh": {
        "fig_lower": "越低越好",
        "fig_higher": "越高越好",
        "fig_trained": "训练所用",
        "fig_step": "步",
        "fig_training_loss": "训练损失",
        "fig_lr": "学习率",
        "fig_beyond": "超出坐标轴：",
        "fig_effect": "效应：第一组减第二组",
        "fig_no_value": "尚无数值",
        "fig_flops": "训练的 FLOPs",
        "fig_seconds": "训练秒数",
        "fig_parameters": "参数",
        "fig_kept": "训练 {trained}，冻结 {frozen}",
        "fig_frozen": "冻结",
        "fig_others": "其他",
        "fig_edge": "网格边缘",
        "fig_all_variants": "所有变体",
        "fig_layer": "第 {n} 层",
        "fig_layers": "第 {n} 层",
        "fig_pairs": "{ones} / {pairs}，{share}",
        "fig_reads": "读取的词元",
        "fig_is_read": "被读取的词元",
        "fig_reference": "（基线）",
        "fig_train_split": "训练集",
        "fig_tokens": "{axis}（词元）",
        "fig_span_seed": "单个种子的 L50",
        "fig_span_median": "居中种子的 L50",
        "fig_span_range": "最低到最高的种子",
        "fig_span_beyond": "超出所问范围",
        "fig_span_effective": "有效窗口",
        "fig_span_window": "直接窗口",
        "fig_span_field": "理论感受野",
        "fig_state_bytes": "携带的状态（字节）",
        "cap_primary": "各条件下的 {metric}。",
        "cap_learning": "{metric} 随 {axis} 的变化：每组一条线，每个点都是重新训练的。",
        "cap_baseline": "基线组：{arm}。",
        "cap_train": "细虚线：同一组在训练集上的结果。",
        "cap_bands": "线为均值，带为各种子的 {level} t 区间，点为单个种子。各组共用种子，"
        "结论依据同一种子内的差值，因此比带所示更精确。",
        "cap_bands_only": "线为均值，带为各种子的 {level} t 区间。各组共用种子，"
        "结论依据同一种子内的差值，因此比带所示更精确。",
        "cap_none": "尚无数值：{names}。",
        "cap_rows": "点为均值，横条为各种子的 {level} t 区间，浅色点为单个种子。各组共用种子，"
        "结论依据同一种子内的差值，因此比横条所示更精确。",
        "cap_seeds": "点为唯一的种子。",
        "cap_hollow": "空心：种子数少于计划，尚不可比。",
        "cap_gap": "空缺：没有数值（{all} 个单元中的 {n} 个）。",
        "cap_imported": "灰色虚线与方块：在别处测得，不参与任何检验。",
        "cap_far": "超出坐标轴的平凡基线：{names}。",
        "cap_probe": "{evaluation}：实线为正确率；虚线为没有先前呈现时同样词元的正确率；"
        "下方为两者之差。色带：对种子的 {level} t 区间。"
        "竖线：直接窗口（虚线）、理论感受野（点线）。",
        "cap_slices": "按评测样本切片的 {metric}；各水平下方为样本数。",
        "cap_spans": "{evaluation}：正确率（有对照时先按对照校正）降到一半之处：点为居中的种子，"
        "线从最低的种子到最高的种子，浅色为单个种子。",
        "cap_spans_effective": "菱形：有效窗口，到此为止，增益对种子的 {level} t 区间下端大于 0。",
        "cap_spans_marks": "短竖线：该组的直接窗口（虚线）与理论感受野（点线）；"
        "远在坐标轴之外的不画。",
        "cap_beyond": "箭头：超出所问范围，画在所问的最后一处；那里不给数字。",
        "cap_state": "{evaluation}：跨度与模型在其任务一行末尾所携带字节数（每个数四字节）的关系；"
        "字节数相同的组并排。",
        "cap_state_effective": "点为有效窗口：到此为止，增益对种子的 {level} t 区间下端大于 0。",
        "cap_state_half": "点为居中种子的 L50，线从最低的种子到最高的种子。",
        "cap_rows_only": "点为均值，横条为各种子的 {level} t 区间。",
        "cap_sliced_trivial": "灰色：平凡基线在该切片上的数值。",
        "cap_along": "每个水平之内从左到右：{factor} = {levels}。",
        "cap_heat": "{metric} 随 {rows} 与 {columns} 的变化；颜色越深越好。",
        "cap_over": "每格为对 {over} 及种子的均值。",
        "cap_uneven": "各格所含的 {over} 水平不尽相同，只宜比较水平相同的格。",
        "cap_hatched": "斜线：有缺失（已有 / 计划）。",
        "cap_forest": "各假设的对比及其 {level} 区间；浅色点为种子；深色短线为主张所涉的幅度。"
        "绿：得到支持，红：被否定，黄：尚无定论。",
        "cap_tuning": "在选择集上的调参曲线（{rule}）；实心为所选。",
        "cap_training": "训练过程中的评测；粗线为全部种子的均值，细线为单个种子。",
        "cap_curves": "每个试验的训练损失。",
        "cap_curves_mean": "训练损失，对每个变体的各种子取均值。",
        "cap_colours": "颜色：{factor}。",
        "cap_lr": "实际的学习率，每种走势一条。",
        "cap_cost": "代价与 {metric}（对各条件取均值）；虚线：两方面都没有被其他变体超过的变体。",
        "cap_parameters": "各组训练（实心）与冻结（斜线）的参数，按类别，取自记录；"
        "偏置计入其矩阵。",
        "cap_merged": "“+ n”：另有 n 组与之相同。",
        "cap_shared": "秒数取决于机器当时的其他负载。",
    },
}
