// The page, top to bottom.
function showDiff() {
  if (!report.diff) return;
  const figure = (unit, value) => (value == null ? "unknown" : unit === "count" ? value.toLocaleString("en-US") : mb(value));
  const columns = [
    { title: "what", cell: ({ what }) => shortened(what, 80) },
    { title: "old", number: true, cell: ({ unit, old }) => figure(unit, old) },
    { title: "new", number: true, cell: ({ unit, new: now }) => figure(unit, now) },
    { title: "change", number: true, cell: ({ unit, change }) => (change == null ? "–" : change === 0 ? "none" : el("span", { class: unit === "count" ? "" : change > 0 ? "bad" : "good" }, signed(change, (size) => figure(unit, size)))) },
    { title: "", number: true, cell: ({ old, change }) => (old && change ? `${change < 0 ? "−" : "+"}${ratio(Math.abs(change) / old)}` : "") },
  ];
  const groups = [["no longer shared: ", report.diff.groups_lost], ["newly shared: ", report.diff.groups_gained]];
  const regrouped = groups.flatMap(([says, named]) => (named ?? []).slice(0, 40).map((name) => el("li", {}, says, label(name, 80))));
  section("diff", "Change", ["against ", label(report.diff.old, 80)], table("", columns, report.diff.rows, 40), regrouped.length ? el("ul", {}, regrouped) : null);
}

// What is true of several ops ("Conv 'a': …", "Conv 'b': …") in one line; all of them are in the JSON.
function summedUp(notes) {
  const subjects = new Map();
  for (const note of new Set(notes)) {
    const at = note.indexOf("': ");
    const what = at < 0 ? note : note.slice(at + 3);
    subjects.set(what, [...(subjects.get(what) ?? []), at < 0 ? "" : note.slice(0, at + 1)]);
  }
  return [...subjects].map(([what, named]) => {
    const more = named.length > 2 ? ` and ${(named.length - 2).toLocaleString("en-US")} more` : "";
    return named[0] ? `${named.slice(0, 2).map((name) => shortened(name, 120)).join(", ")}${more}: ${what}` : what;
  });
}

function showNotes() {
  const general = [...(activations.notes ?? []), ...(compute?.notes ?? [])];
  const own = (said) => (said ?? []).filter((note) => !general.includes(note));
  const notes = [[null, summedUp(general)], ...profiles.map(({ profile, notes: said }) => [profile, summedUp(own(said))])];
  if (!notes.some(([, said]) => said.length)) return;
  section("notes", "Notes", "", el("ul", {}, notes.flatMap(([profile, said]) => said.map((note) => el("li", {}, profile ? [label(profile, 40), ": "] : null, shortened(note, 600))))));
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
