"""The methods paragraph that authors may paste, its references, and what the audit is evidence for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding
from xaiseg.reports.facts import cluster_word, cluster_words, threshold_words
from xaiseg.reports.words import listed, plural

REFERENCES: Final[Mapping[str, str]] = {
    "performance.segmentation": "Maier-Hein L, Reinke A, Godau P, et al. Metrics reloaded: recommendations for image "
    "analysis validation. Nature Methods 2024;21:195-212.",
    "performance.detection": "Lin TY, Maire M, Belongie S, et al. Microsoft COCO: common objects in context. "
    "ECCV 2014.",
    "jackknife": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993 (chapter 11).",
    "Poisson": "Garwood F. Fiducial limits for the Poisson distribution. Biometrika 1936;28:437-442.",
    "decision": "ILAC-G8:09/2019. Guidelines on decision rules and statements of conformity. ILAC, 2019.",
    "bootstrap-t": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993 (chapter 12).",
    "Korn-Graubard": "Korn EL, Graubard BI. Confidence intervals for proportions with small expected number of "
    "positive counts estimated from survey data. Survey Methodology 1998;24:193-201.",
    "Clopper-Pearson": "Clopper CJ, Pearson ES. The use of confidence or fiducial limits illustrated in the case of "
    "the binomial. Biometrika 1934;26:404-413.",
    "holm": "Holm S. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics "
    "1979;6:65-70.",
    "calibration.pixels": "Guo C, Pleiss G, Sun Y, Weinberger KQ. On calibration of modern neural networks. ICML 2017.",
    "hirescam": "Draelos RL, Carin L. Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional "
    "neural networks. arXiv:2011.08891, 2020.",
    "integrated-gradients": "Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. ICML 2017.",
    "occlusion": "Zeiler MD, Fergus R. Visualizing and understanding convolutional networks. ECCV 2014.",
    "gradcam": "Selvaraju RR, Cogswell M, Das A, et al. Grad-CAM: visual explanations from deep networks via "
    "gradient-based localization. ICCV 2017.",
    "seg-xres-cam": "Hasany SN, Petitjean C, Meriaudeau F. Seg-XRes-CAM: explaining spatially local regions in image "
    "segmentation. CVPR Workshops 2023.",
    "layercam": "Jiang P-T, Zhang C-B, Hou Q, et al. LayerCAM: exploring hierarchical class activation maps for "
    "localization. IEEE Transactions on Image Processing 2021;30:5875-5888.",
    "xgradcam": "Fu R, Hu Q, Dong X, et al. Axiom-based Grad-CAM. BMVC 2020, arXiv:2008.02312.",
    "gradcam++": "Chattopadhay A, Sarkar A, Howlader P, Balasubramanian VN. Grad-CAM++. WACV 2018, arXiv:1710.11063.",
    "eigencam": "Muhammad MB, Yeasin M. Eigen-CAM: class activation map using principal components. IJCNN 2020, "
    "arXiv:2008.00299.",
    "scorecam": "Wang H, Wang Z, Du M, et al. Score-CAM. CVPR Workshops 2020, arXiv:1910.01279.",
    "ablationcam": "Desai S, Ramaswamy HG. Ablation-CAM. WACV 2020.",
    "saliency": "Simonyan K, Vedaldi A, Zisserman A. Deep inside convolutional networks. arXiv:1312.6034, 2013.",
    "smoothgrad": "Smilkov D, Thorat N, Kim B, et al. SmoothGrad: removing noise by adding noise. arXiv:1706.03825, "
    "2017.",
    "deeplift": "Shrikumar A, Greenside P, Kundaje A. Learning important features through propagating activation "
    "differences. ICML 2017.",
    "gradientshap": "Lundberg SM, Lee S-I. A unified approach to interpreting model predictions. NeurIPS 2017.",
    "kernelshap": "Lundberg SM, Lee S-I. A unified approach to interpreting model predictions. NeurIPS 2017.",
    "lime": "Ribeiro MT, Singh S, Guestrin C. Why should I trust you? Explaining the predictions of any classifier. "
    "KDD 2016.",
    "rise": "Petsiuk V, Das A, Saenko K. RISE: randomized input sampling for explanation of black-box models. BMVC "
    "2018.",
    "sobol": "Fel T, Cadene R, Chalvidal M, et al. Look at the variance! Efficient black-box explanations with "
    "Sobol-based sensitivity analysis. NeurIPS 2021.",
    "hsic": "Novello P, Fel T, Vigouroux D. Making sense of dependence: efficient black-box explanations using "
    "dependence measure. NeurIPS 2022.",
    "explanation.intrinsic": "Rahman MA. RadiomicNet. arXiv:2607.02185, 2026.",
    "explanation": "Adebayo J, Gilmer J, Muelly M, et al. Sanity checks for saliency maps. NeurIPS 2018.",
}
#: What each guideline calls its items, in the order of the table.
GUIDELINES: Final[Mapping[str, str]] = {
    "future-ai": "FUTURE-AI (Lekadir et al., BMJ 2025)",
    "claim-2024": "CLAIM 2024 (Tejani et al.)",
    "eu-ai-act": "EU AI Act (Regulation 2024/1689)",
}
_CHOSEN: Final = {"val": "chosen on validation data", "test": "chosen on the audited data", "default": "the default"}
#: What each check is measured with, said in the paragraph when it ran.
_MEASURES: Final[Mapping[str, str]] = {
    "performance.segmentation": "overlap (Dice, IoU), border agreement (NSD, HD95), lesions as components and areas "
    "on the native grid; images with an empty mask were kept apart as four cases, and a failed image counted as the "
    "worst value",
    "performance.detection": "detections matched with the reference boxes greedily by score, one to one; recall, "
    "precision and false positives at the frozen threshold, FROC and average precision, and counts by image and by "
    "cluster; a failed image counted as the worst value",
    "subgroups.declared": "every declared group by its own value",
    "calibration.pixels": "pixel calibration over the image and around the lesion, beside the error that chance alone "
    "would show",
    "explanation.intrinsic": "what the architecture shows of its own reasons, and how the answer changes without it",
    "robustness.degradation": "the paired loss of Dice on degraded copies of each image",
    "equivalence.segmentation": "the masks, lesions and confidences of each other build beside those of the audited "
    "model, paired by image",
    "equivalence.detection": "the boxes of each other build beside those of the audited model, matched one to one",
    "equivalence.explanation": "perturbation maps run through each build itself with the same masks, beside what the "
    "audited model's own maps vary by with other masks",
    "equivalence.layers": "each layer's error in integers and each step from floating point to digit-serial units",
    "equivalence.digits": "the build with fewer and fewer digits, and digits by layer that a search on calibration "
    "images accepts",
    "equivalence.rtl": "sampled windows of every convolution in Icarus Verilog, clock by clock",
    "hardware.cost": "a model of cycles, compute-only time and energy, every constant with its source",
    "shortcut.background": "found objects before backgrounds of other images, beside a sham: pasted back before their "
    "own",
    "shortcut.object": "found objects removed, beside a sham: an equal region of the background filled in",
    "shortcut.artefacts": "marks planted on the background, beside a sham: pixels of the background in their place",
    "shortcut.position": "found objects moved to the edge and partly hidden, beside shams within the image",
    "shortcut.lookalikes": "false detections that overlap no object, grouped by what a layer answers or how they look",
    "data.integrity": "duplicates and overlap with the training list by file, pixels and declared cluster",
}


def methods(
    plan: Mapping[str, Any], protocol: Mapping[str, Any], estimates: Sequence[Estimate], findings: Sequence[Finding]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paragraphs of the methods section, and the references that they cite.

    Returns:
        Paragraphs with numbers in square brackets, and the references in that order.
    """
    cited: list[str] = []

    def cite(*names: str) -> str:
        known = [name for name in names if name in REFERENCES]
        cited.extend(name for name in known if name not in cited)
        return f" [{', '.join(str(cited.index(name) + 1) for name in known)}]" if known else ""

    paragraphs = [
        _opening(plan, protocol),
        _measured(plan, cite),
        _statistics(plan, protocol, estimates, findings, cite),
    ]
    return tuple(part for part in paragraphs if part), tuple(REFERENCES[name] for name in cited)


def _opening(plan: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    model, test = plan["model"], plan["data"]["test"]
    weights = f", weights sha256 {model['weights_sha256'][:12]}" if model.get("weights_sha256") else ""
    version = f" version {model['version']}" if model.get("version") else ""
    post_hoc = protocol.get("sha256") != plan["protocol"]["sha256"]
    fixed = (
        "chosen after the data were measured (post hoc)" if post_hoc else "fixed and hashed before the data were read"
    )
    words = f"We audited the {model.get('task', 'segmentation')} model {model['name']}{version}{weights} with xaiseg "
    words += f"{plan['environment'].get('xaiseg', '')} under protocol {protocol['name']} {protocol['version']} (sha256 "
    words += f"{protocol['sha256'][:12]}), {fixed}. The test data held {plural(test['n_cases'], 'image')} of "
    words += f"{cluster_words(plan, test['n_clusters'])}"
    words += " generated by the package" if test.get("generated") else ""
    words += f"; the operating threshold was {threshold_words(model)}."
    if plan.get("limit"):
        words += f" Whole clusters were drawn at random, about {plan['limit']} images in all (seed {plan['seed']})."
    return words


def _measured(plan: Mapping[str, Any], cite: Any) -> str:
    ran = {item["id"]: item for item in plan["checks"] if item["runs"]}
    parts = [f"{_MEASURES[name]}{cite(name)}" for name in _MEASURES if name in ran]
    words = f"We measured {'; '.join(parts)}." if parts else ""
    held = ran.get("explanation")
    if held is not None:
        names = list(held["params"].get("methods", ()))
        sample = f" on a seeded sample of {held['sample']} images" if held.get("sample") else ""
        named = listed([name + cite(name) for name in names], most=12)
        words += (
            f" Explanations ({named}) were tested{sample} by deletion, against the best of five pictures that need "
        )
        words += "no model, and by randomising the weights"
        words += f"{cite('explanation')}."
    return words


def _statistics(
    plan: Mapping[str, Any],
    protocol: Mapping[str, Any],
    estimates: Sequence[Estimate],
    findings: Sequence[Finding],
    cite: Any,
) -> str:
    used = dict.fromkeys(
        i.interval.method.split(",")[0].split(" (")[0] for i in estimates if i.interval and i.interval.method
    )
    names = [name + cite(*[key for key in REFERENCES if key in name]) for name in used]
    decision = protocol["decision"]
    alpha = 100 * (1 - decision["confidence"]) / decision.get("looks", 1)
    words = f"The unit of inference was the {cluster_word(plan)[:-1]}. " if cluster_word(plan).endswith("s") else ""
    words += f"Intervals: {listed(names, most=9)}. " if names else ""
    words += (
        f"Requirements were decided by guard band{cite('decision')}: met when the one-sided {100 - alpha:g} % bound "
    )
    words += "lies on the good side, not met when the opposite bound lies on the bad side, otherwise undecided"
    if any(f.requirement.stratum for f in findings):
        words += f"; failures among groups were corrected after Holm{cite('holm')}"
    return words + f". All draws follow seed {plan['seed']}."


def mapping(findings: Sequence[Finding]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Which items of which guideline each requirement is evidence for.

    Returns:
        Head and rows of the table; no rows when no requirement names any.
    """
    named = dict.fromkeys(name for f in findings for name in f.requirement.maps_to)
    order = [name for name in GUIDELINES if name in named] + [name for name in named if name not in GUIDELINES]
    rows = [
        (f.sentence, *(", ".join(f.requirement.maps_to.get(name, ())) for name in order))
        for f in findings
        if f.requirement.maps_to
    ]
    return ("requirement", *(GUIDELINES.get(name, name) for name in order)), rows
