// The answer first: which is faster, or how long it takes, and whether that counts.
function comparisonText({ a, b, verdict, taints }) {
  const [first, second] = [a, b].map(nameOf).map((name) => shortened(name, 80));
  if (measurements[a].is_emulated || measurements[b].is_emulated) return ["warn", `${second} against ${first}: ${EMULATED}`];
  if (taints.length) return ["warn", `${second} against ${first}: not decided`];
  if (verdict === "no difference shown") return ["", `${second} against ${first}: no difference shown`];
  return [verdict === "faster" ? "good" : "bad", `${second} is ${verdict} than ${first}`];
}

const ratioText = ({ ratio: found, interval }) => `${fixed(found, 3)} [${fixed(interval.low, 3)}, ${fixed(interval.high, 3)}]`;

function answer() {
  if (comparisons.length) {
    return comparisons.map((one) => {
      const [toned, text] = comparisonText(one);
      const shown = measurements[one.a].is_emulated || measurements[one.b].is_emulated ? "" : `: ratio of p50 ${ratioText(one)}`;
      return el("h1", {}, el("span", { class: toned }, text), shown);
    });
  }
  const files = [...new Set(measurements.map(({ job }) => file(job.path)))].map((name) => shortened(name, 60)).join(", ");
  if (!measurements.length) return el("h1", {}, el("span", { class: "bad" }, "nothing was measured"));
  if (measurements.length === 1) return el("h1", {}, `${files} on ${shortened(measurements[0].machine, 40)}: `, single(measurements[0]));
  const good = timed.filter((index) => !measurements[index].taints.length && measurements[index].latency.p50_ms != null);
  const text = (index) => `${ms(measurements[index].latency.p50_ms)} (${shortened(nameOf(index), 60)})`;
  good.sort((one, other) => measurements[one].latency.p50_ms - measurements[other].latency.p50_ms);
  if (!good.length) return el("h1", {}, `${files}: `, el("span", { class: "warn" }, measurements.every(({ is_emulated: emulated }) => emulated) ? EMULATED : "no valid time"));
  return el("h1", {}, `${files}: p50 `, el("span", { class: "good" }, text(good[0])), good.length > 1 ? ` to ${text(good[good.length - 1])}` : "");
}

function single({ is_emulated: emulated, latency, p50_interval: interval, taints }) {
  if (emulated) return el("span", { class: "warn" }, EMULATED);
  if (!latency) return el("span", { class: "bad" }, "no process came to its end");
  const [name, value] = latency.p50_ms == null ? ["mean", latency.mean_ms] : ["p50", latency.p50_ms];
  return [el("span", { class: taints.length ? "warn" : "good" }, `${name} ${ms(value)}`), interval && latency.p50_ms != null ? ` ${bracket(interval)}` : ""];
}

function keyFigures(one) {
  const { latency, ram, repetitions } = one;
  const of = (key) => ms(median(counted(one).map((process) => process[key])));
  const parity = one.parity.parity;
  return el("dl", { class: "figures" }, [
    latency ? figure("p50", ms(latency.p50_ms), one.p50_interval ? `95 % interval ${bracket(one.p50_interval)}` : "too few processes for an interval") : null,
    latency ? figure("p90 · p99", `${digits(latency.p90_ms)} · ${digits(latency.p99_ms)}`, `ms; the longest ${ms(latency.max_ms)}`) : null,
    latency ? figure("Load", of("load_ms"), "open the file; optimise, pack") : null,
    latency ? figure("First inference", of("first_inference_ms"), "after loading") : null,
    ram ? figure("RAM at the peak", mb(Math.max(ram.run_peak_bytes, ram.load_peak_bytes)), `above ${mb(ram.baseline_bytes)} before loading`) : null,
    figure("Outputs", parity ? `${fixed(parity.sqnr_db, 1)} dB` : "not compared", parity ? "SQNR against this machine's" : shortened(one.parity.reason, 80)),
    figure("Processes", `${undisturbed(one).length} of ${repetitions.length}`, "undisturbed"),
  ].filter(Boolean));
}

function showVerdict(page) {
  const remarks = measurements.map((one, index) => {
    const [toned, text] = one.is_emulated && !one.taints.length ? ["warn", EMULATED] : validity(one);
    return el("p", { class: `validity ${toned}` }, measurements.length > 1 ? [label(nameOf(index), 60), ": "] : null, shortened(text, 600));
  });
  const failed = failures.map(({ machine, job, error }) => {
    const about = [machine, job].filter(Boolean).join(", ");
    const why = machine && error.startsWith(`${machine}: `) ? error.slice(machine.length + 2) : error;
    return el("p", { class: "validity bad" }, "✗ ", about ? [label(about, 80), ": "] : null, shortened(why, 600));
  });
  const invalid = comparisons.flatMap(({ taints }) => taints).map((taint) => el("p", { class: "validity warn" }, `✗ the comparison is invalid: ${shortened(taint, 300)}`));
  page.append(
    el("header", {}, el("p", { class: "file" }, "edgeks bench", report.complete ? "" : " · not complete"), answer(), failed, invalid, remarks, measurements.length === 1 ? keyFigures(measurements[0]) : null),
    el("nav", { "aria-label": "Sections" }),
  );
  const named = measurements.length ? shortened(file(measurements[0].job.path), 60) : "nothing";
  document.title = `${named} · benchmark`;
}
