"""Faults that `scripts/plant_faults.py` plants: a text that stands once in a file, what it becomes, the tests that should fail."""

from __future__ import annotations

from dataclasses import dataclass

# ruff: noqa: E501
CERTIFY, SWEEP = "custom_ops/certify/certify.cpp", "tests/custom_ops/test_planted_kernels.py"
INTERVALS, PROOFS = "opau_onnx/collapse/approximation/intervals.py", "tests/collapse/test_proofs.py"
TABLE, ORACLE = "opau_onnx/collapse/approximation/table.py", "opau_onnx/core/oracle.py"
EVALUATION, RANGE = "opau_onnx/core/evaluation.py", "tests/core/test_range_policy.py"
CACHE, LAYOUT = "opau_onnx/runtime/layout_cache.py", "tests/runtime/test_layout.py"
ABSORB, ABSORBED = "opau_onnx/collapse/passes/absorb.py", "tests/collapse/test_absorb.py"
WHOLE, FILES = "opau_onnx/graph/whole.py", "tests/graph/test_whole.py"
JUDGE = "opau_onnx/certify/certificate.py"


ADOPT, PROBE, ADOPTED = "opau_onnx/nn/adopting.py", "opau_onnx/nn/probing.py", "tests/nn/test_adopt.py"
FITTING, FITS = "opau_onnx/core/fitting.py", "tests/core/test_fitting.py"
REFERENCE, REFERENCES = "opau_onnx/compare/torch_reference.py", "tests/compare/test_torch_reference.py"
NUDGING, CASTING = "opau_onnx/compare/nudging.py", "opau_onnx/nn/casting.py"
POLICIES, ELEMENTS = "opau_onnx/compare/policies.py", "tests/compare/test_by_element.py"
SILENT, SIZES = "tests/compare/test_not_comparable.py", "opau_onnx/compare/sizes.py"
SIZED, TENSORS, COMPARED = "tests/compare/test_sizes.py", "opau_onnx/compare/tensors.py", "tests/compare/test_tensors.py"
LOADING, STATES = "opau_onnx/nn/loading.py", "tests/nn/test_state.py"
SOURCE, SOURCES = "opau_onnx/io/source.py", "tests/io/test_source.py"
CALLING, CALLS = "opau_onnx/io/calling.py", "tests/io/test_calling.py"
SESSION, SESSIONS = "opau_onnx/runtime/session.py", "tests/runtime/test_session.py"
ISOLATED, VERIFIED = "opau_onnx/compare/isolated.py", "tests/verify/test_faults.py"
RUNS, VERIFY = "opau_onnx/verify/runs.py", "tests/verify/test_verify_model.py"
DIFF, FILED = "opau_onnx/verify/weight_diff.py", "tests/verify/test_onnx_model.py"
SAMPLES, SAMPLED = "opau_onnx/io/samples.py", "tests/io/test_samples.py"
SCAN, SCANNED = "opau_onnx/io/pt2_scan.py", "tests/io/test_pt2_scan.py"


@dataclass(frozen=True)
class Fault:
    """A text of a file, what it becomes, and the tests (a file, with a -k expression where given) that should fail."""

    name: str
    file: str
    text: str
    planted: str
    tests: str
    only: str = ""


FIRST = (
    Fault("bits of instruction sets are not compared", CERTIFY, "if (!same(element(b.out[s], i, job.format), bits, job.format)) {",
          "if (false) {", SWEEP, "one_sets_bits"),
    Fault("errors beyond the bound are not counted", CERTIFY, "if (error > limit) count(", "if (false) count(", SWEEP, "interval"),
    Fault("the sign of infinity is not looked at", CERTIFY, "std::isinf(y) && (y > 0) == (value > 0)", "std::isinf(y)", SWEEP,
          "sign_of_infinity"),
    Fault("results that are not finite pass", CERTIFY, "if (!std::isfinite(y)) {", "if (false) {", SWEEP, "nan or overflow"),
    Fault("variants are not compared", CERTIFY, "if (!right) count(to.differences", "if (false) count(to.differences", SWEEP,
          "lanes or tiles or streaming or runs or blocks"),
    Fault("slower sets' variants are not compared", CERTIFY, "if (s == last || index % kSeldom == 0)", "if (s == last)", SWEEP,
          "slow_sets"),
    Fault("differences of variants are no reason", JUDGE, "if variant.differences:", "if False:", SWEEP, "lanes"),
    Fault("nothing compared is no reason", JUDGE, "elif not variant.compared:", "elif False:", SWEEP, "compared"),
    Fault("violations are no reason", JUDGE, "if found.violations:", "if False:", SWEEP, "overflow"),
    Fault("intervals are not rounded outward below", INTERVALS, "low = low - np.abs(low) * factor - self.tiny", "low = low * 1.0",
          PROOFS),
    Fault("intervals are not rounded outward above", INTERVALS, "high + np.abs(high) * factor + self.tiny", "high", PROOFS),
    Fault("a pole at the lower edge", INTERVALS, "(y.low <= 0) & (y.high >= 0)", "(y.low < 0) & (y.high >= 0)", PROOFS),
    Fault("a pole at the upper edge", INTERVALS, "(y.low <= 0) & (y.high >= 0)", "(y.low <= 0) & (y.high > 0)", PROOFS),
    Fault("the table's slop", TABLE, "slop = _SLOP", "slop = 0.0", PROOFS),
    Fault("the table's rounding", TABLE, "+ rounding).max()", ").max()", PROOFS),
    Fault("the bound of the last group", TABLE, "worst = max(worst, float(", "worst = max(0.0, float(", PROOFS),
    Fault("no common factor", EVALUATION, "if factor is None:\n        return _weighted", "if True:\n        return _weighted", RANGE,
          "small_coefficients"),
    Fault("no sign of the leading term", EVALUATION, "if sign is None:", "if True:", RANGE, "infinities"),
    Fault("the oracle leaves out Q's loss", ORACLE, "total = sums[0] + Big.of(np.abs(value)) * sums[1]", "total = sums[0]", RANGE,
          "floor"),
    Fault("the processor is not in the key", CACHE, "this_processor() if processor is None else processor]", '""]', LAYOUT,
          "in_its_key"),
    Fault("session entries are not in the key", CACHE, "repr(_entries(options)), ", "", LAYOUT, "in_its_key"),
    Fault("dimensions are not in the key", CACHE, ", repr(_effects(model, options))]", "]", LAYOUT, "in_its_key or other_options"),
    Fault("entries are not verified", CACHE, "return content if head == _SIGNED + _hash(name, content) else None", "return content",
          LAYOUT, "flipped"),
    Fault("names of subgraphs are not read", "opau_onnx/runtime/layout.py", "readers.update(_outer_names(graph))", "", LAYOUT,
          "subgraph"),
    Fault("BatchNormalization along any axis", ABSORB, 'or (node.op_type == "BatchNormalization" and place[0] != 1)', "", ABSORBED,
          "another_axis"),
    Fault("factors of any size", ABSORB, "FACTORS = 2.0**-40, 2.0**40", "FACTORS = 0.0, float('inf')", ABSORBED, "forbids"),
    Fault("offsets that cancel", ABSORB, "CANCELLING = 16.0", "CANCELLING = 1e30", ABSORBED, "forbids"),
    Fault("coefficients of any size", ABSORB, "_within(numerator, COEFFICIENT_FLOOR, COEFFICIENT_LIMIT)", "True", ABSORBED,
          "forbids"),
    Fault("no bodies are put back", WHOLE, "_names(nodes), _bodies(proto, nodes)", "_names(nodes)", FILES, "tools_leave"),
    Fault("no names are given", WHOLE, "_attributes(nodes), _names(nodes)", "_attributes(nodes)", FILES, "branches or tools_leave"),
    Fault("any link is followed", WHOLE, " or place.resolve().parent != path.resolve().parent", "", FILES, "links"),
)  # fmt: skip

MORE = (
    Fault("adopt allows a million bounds", PROBE, "SLACK = 8.0", "SLACK = 1e6", ADOPTED),
    Fault("adopt shares whatever the tensors", ADOPT, "*(id(t) for t in tensors)", "*()", ADOPTED),
    Fault("adopt trains what was frozen", ADOPT, "module.numerator.requires_grad_(reading.numerator.requires_grad)", "pass", ADOPTED),
    Fault("adopt takes NaN", ADOPT, "if not all(bool(torch.isfinite(v).all())", "if not all(True", ADOPTED),
    Fault("adopt looks at small inputs only", PROBE, "torch.logspace(1, 4, 13,", "torch.logspace(0, 0.1, 13,", ADOPTED),
    Fault("fits next to a pole", FITTING, "return bool(np.min(q) < _MARGIN)", "return False", FITS),
    Fault("fits forget what lies far away", FITTING, "    if growth_weight:", "    if False:", FITS),
    Fault("fits forget the tails", FITTING, "    if tail_weight:", "    if False:", FITS),
    Fault("a fit's error is that of its samples", FITTING, "x = np.linspace(low, high, 4 * (POINTS - 1) + 1)", "x = np.array([low, high])", FITS),
    Fault("no weight is nudged", NUDGING, "            nudge_(tensor, self.rng)", "            pass", REFERENCES),
    Fault("nudged weights are not put back", NUDGING, "        for tensor, origin in self._pairs:\n            tensor.copy_(origin)\n\n    @torch.no_grad()\n    def draw", "        pass\n\n    @torch.no_grad()\n    def draw", REFERENCES),
    Fault("copies share what is changed", CASTING, "if share and parameter.dtype == dtype:", "if parameter.dtype == dtype:", REFERENCES),
    Fault("roundings of one draw alone", REFERENCE, "for _ in range(draws):", "for _ in range(1):", REFERENCES),
    Fault("numbers of modules are taken for exact", REFERENCE, "copy.round_numbers()", "pass", "tests/export/test_export_model.py"),
    Fault("random models are comparable", REFERENCE, "if a.shape != b.shape or not _same(a, b):", "if False:", SILENT),
    Fault("NaN beside NaN is equal", "opau_onnx/compare/references.py", "if finite and any(", "if False and any(", SILENT),
    Fault("vague tolerances pass", POLICIES, "if allowed > LARGEST_SHARE * size or most:", "if False:", SILENT),
    Fault("ties count", POLICIES, "    return changed\n", "    return None\n", ELEMENTS + " " + SILENT),
    Fault("whole numbers have a tolerance", POLICIES, "        return np.zeros(np.shape(values))\n    sizes", "        return np.ones(np.shape(values))\n    sizes", "tests/compare/test_whole_model.py", "integers"),
    Fault("large elements lend their tolerance", POLICIES, "KIN = {\"float64\": 1e3, \"float32\": 1e3,", "KIN = {\"float64\": 1e30, \"float32\": 1e30,", ELEMENTS),
    Fault("limits of a program are not tried", SIZES, ", *limits.get(name, ())", "", SIZED),
    Fault("axes are not varied together", SIZES, "if len(own) > 1:", "if False:", SIZED),
    Fault("axes are not varied alone", SIZES, "        for size in sizes:", "        for size in ():", SIZED),
    Fault("NaN is any number", TENSORS, "used = np.where(np.isnan(want) != np.isnan(got), np.inf, used)", "pass", COMPARED),
    Fault("shapes need not agree", TENSORS, "    if want.shape != got.shape:", "    if want.size != got.size:", COMPARED),
    Fault("configurations in states are not read", LOADING, "    if key in state_dict:\n        try:", "    if False:\n        try:", STATES),
    Fault("weights may be NaN", SOURCE, "    if bad:\n", "    if False:\n", SOURCES + " " + SILENT),
    Fault("one tensor twice is one input", CALLING, "leaf.detach().clone()", "leaf.detach()", CALLS + " tests/export/test_field_models.py"),
    Fault("old runtimes are not refused", SESSION, "if contents.overloads and numbers < [1, 27]:", "if False:", SESSIONS),
    Fault("the CPU in place of CUDA", SESSION, "    if device == \"cuda\":\n        raise", "    if False:\n        raise", SESSIONS),
    Fault("uncovered models take the library", SESSION, "reason = contents.uncovered()", "reason = None", SESSIONS),
    Fault("lost NaN is no fault", ISOLATED, "and not (self.nan_counts and self.nan_kept is False)", "", VERIFIED),
    Fault("approximations hold everywhere", ISOLATED, "site.approximation\n    if said is None:", "site.approximation\n    if True:", VERIFY),
    Fault("any agreement is enough", RUNS, ">= (1.0 if least is None else least)", ">= 0.0", VERIFY + " " + FILED),
    Fault("stored numbers are all equal", DIFF, "    if np.array_equal(want, got, equal_nan=True):", "    if True:", VERIFIED),
    Fault("a finer file's roundings", "opau_onnx/compare/file_reference.py", "moves * self.scale", "moves", FILED),
    Fault("shipped images calibrate and count", SAMPLES, "rest = self._rows(slice(calibrated, None))", "rest = self", "tests/collapse/test_quantize.py", "shipped_image"),
    Fault("pickled arrays are read", SAMPLES, "allow_pickle=False", "allow_pickle=True", SAMPLED),
    Fault("compiled code in a program passes", SCAN, 'raise _refused(path, member.filename, "it is compiled code")', "pass", SCANNED),
    Fault("files appear before they are whole", "opau_onnx/io/atomic.py", "        yield temporary\n", "        yield path\n        temporary.unlink()\n        return\n", "tests/plot tests/inspect tests/export/test_export_file.py"),
    Fault("conditions on sizes are lost", "opau_onnx/export/program.py", "            found.append(text)", "            pass", SIZED),
)  # fmt: skip

FAULTS = FIRST + MORE
