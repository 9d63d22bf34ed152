// The page, top to bottom.
const page = document.getElementById("page");
showVerdict(page);
showRatios();
showLatency();
showDistributions();
showSeries();
showOps();
showRam();
showDevices();
showProcesses();
showRepeat();
page.querySelector("nav").append(...sections.map(({ id, title }) => el("a", { href: `#${id}` }, title)));
page.append(el("footer", {}, `edgeks ${shortened(report.edgeks, 40)} bench · ${shortened(report.schema, 40)} · MB = 10⁶ bytes, kB = 10³ bytes`));
