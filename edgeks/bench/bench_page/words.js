// A measurement in words, as the terminal has it.
const measurements = report.measurements ?? [];
const comparisons = report.comparisons ?? [];
const failures = report.failures ?? [];
const EMULATED = "emulated: time means nothing";

const digits = (value) => (value == null ? "–" : fixed(value, value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : value >= 0.1 ? 3 : 4));
const ms = (value) => (value == null ? "–" : `${digits(value)} ms`);
const bracket = (interval) => (interval ? `[${digits(interval.low)}, ${digits(interval.high)}]` : "");
const file = (path) => String(path).split(/[\\/]/).pop();
const differ = (values) => new Set(values).size > 1;

const threadsOf = ({ threads, pin }) => `${plural(threads, "thread")}${pin.length ? ` on core${pin.length > 1 ? "s" : ""} ${pin.join(", ")}` : ""}`;
const undisturbed = ({ repetitions }) => repetitions.filter(({ taints }) => !taints.length);
const counted = (one) => (undisturbed(one).length ? undisturbed(one) : one.repetitions);
const median = (values) => (values.length ? [...values].sort((a, b) => a - b)[(values.length - 1) >> 1] : null);

function rank(sorted, part) {
  return sorted.length * (1 - part) < 1 ? null : sorted[Math.ceil(sorted.length * part - 1e-9) - 1];
}

// What tells each job from the others, as short as it may be: the file where nothing does.
const machinesDiffer = differ(measurements.map(({ machine }) => machine)) || failures.length > 0;
const jobNames = (() => {
  const parts = measurements.map(({ job }) => [file(job.path), job.runtime, plural(job.threads, "thread"), job.pin.length ? `cores ${job.pin.join(", ")}` : "any core", `target ${job.target.name}`]);
  let told = parts.map(() => []);
  const kinds = (rows) => new Set(rows.map((row) => row.join("\n"))).size;
  for (const column of [0, 1, 2, 3, 4]) {
    const longer = told.map((row, index) => [...row, parts[index][column]]);
    if (kinds(longer) > kinds(told)) told = longer;
  }
  return told.map((row, index) => (row.length ? row.join(", ") : parts[index][0]));
})();
const jobsDiffer = differ(jobNames);
const nameOf = (index) => {
  const { machine } = measurements[index];
  if (!machinesDiffer) return jobNames[index];
  return jobsDiffer ? `${machine}: ${jobNames[index]}` : machine;
};
const timed = measurements.flatMap((one, index) => (one.latency ? [index] : []));
const tone = (index) => index % 6;
const heading = (index) => el("h3", {}, el("span", { class: `key dot${tone(index)}` }), label(nameOf(index), 80));

function validity(one) {
  const [good, all] = [undisturbed(one).length, one.repetitions.length];
  if (!all) return ["bad", "✗ no process was measured"];
  if (one.taints.length) return ["warn", `✗ invalid, ${good} of ${plural(all, "process")} undisturbed: ${one.taints.join("; ")}`];
  if (good === all) return ["good", `✓ valid: ${good === 1 ? "the process was" : `all ${good} processes were`} undisturbed`];
  const why = [...new Set(one.repetitions.flatMap(({ taints }) => taints))].join("; ");
  return ["good", `✓ valid: ${good} of ${plural(all, "process")} undisturbed; the others: ${why}`];
}

function parityText({ parity: { parity, reason } }) {
  if (!parity) return `not compared${reason ? `: ${reason}` : ""}`;
  const top1 = parity.top1_agreement == null ? "" : `, top-1 agreement ${ratio(parity.top1_agreement)}`;
  return `SQNR ${fixed(parity.sqnr_db, 1)} dB${top1}, ${plural(parity.samples, "sample")}`;
}
