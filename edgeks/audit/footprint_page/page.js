// The page, top to bottom.
// Bytes, or a plain count.
const changed = (unit) => (value) => (unit === "bytes" || value == null ? mb(value) : quantity(value));

function showDiff() {
  if (!report.diff) return;
  const columns = [
    { title: "what", cell: ({ what }) => shortened(what, 80) },
    { title: "old", number: true, cell: ({ old, unit }) => changed(unit)(old) },
    { title: "new", number: true, cell: ({ new: now, unit }) => changed(unit)(now) },
    { title: "change", number: true, cell: ({ old, new: now, unit }) => (old == null || now == null ? "–" : old === now ? "none" : el("span", { class: now > old ? "bad" : "good" }, signed(now - old, changed(unit)))) },
    { title: "", number: true, cell: ({ old, new: now }) => (old && now != null && now !== old ? `${now < old ? "−" : "+"}${ratio(Math.abs(now - old) / old)}` : "") },
  ];
  section("diff", "Change", ["against ", label(report.diff.old, 80)], table("", columns, report.diff.rows, 40),
    groups("No longer shared", report.diff.groups_lost), groups("Newly shared", report.diff.groups_gained));
}

function groups(title, names) {
  if (!names?.length) return null;
  return el("div", {}, el("h3", {}, title), el("ul", {}, names.map((name) => el("li", {}, label(name, 80)))));
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
