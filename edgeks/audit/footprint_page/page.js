// The page, top to bottom.
function showDiff() {
  if (!report.diff) return;
  const columns = [
    { title: "what", cell: ({ what }) => shortened(what, 80) },
    { title: "old", number: true, cell: ({ old_bytes: size }) => mb(size) },
    { title: "new", number: true, cell: ({ new_bytes: size }) => mb(size) },
    { title: "change", number: true, cell: ({ old_bytes: old, new_bytes: now }) => (old == null || now == null ? "–" : old === now ? "none" : el("span", { class: now > old ? "bad" : "good" }, signed(now - old))) },
    { title: "", number: true, cell: ({ old_bytes: old, new_bytes: now }) => (old && now != null && now !== old ? `${now < old ? "−" : "+"}${ratio(Math.abs(now - old) / old)}` : "") },
  ];
  section("diff", "Change", ["against ", label(report.diff.old, 80)], table("", columns, report.diff.rows, 40));
}

function showNotes() {
  const general = [...(activations.notes ?? []), ...(compute?.notes ?? [])].map((note) => [null, note]);
  const notes = [...general, ...profiles.flatMap(({ profile, notes: said }) => (said ?? []).map((note) => [profile, note]))];
  if (!notes.length) return;
  section("notes", "Notes", "", el("ul", {}, notes.map(([profile, note]) => el("li", {}, profile ? [label(profile, 40), ": "] : null, shortened(note, 600)))));
}

const page = document.getElementById("page");
showVerdict(page);
showDiff();
showFlash();
let filterLayers = () => {};
showSharing((text) => filterLayers(text));
showRam();
showTimeline();
showSuggestions();
filterLayers = showLayers();
showNotes();
page.querySelector("nav").append(...sections.map(({ id, title }) => el("a", { href: `#${id}` }, title)));
page.append(el("footer", {}, `edgeks footprint · ${shortened(report.schema, 40)} · MB = 10⁶ bytes, kB = 10³ bytes`));
