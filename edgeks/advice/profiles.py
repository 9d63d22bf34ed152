"""The runtime profiles that a file is tried under, each once, and those that are left out, with the reason."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from edgeks.advice.rows import Artefact
from edgeks.measured_footprint import MODULES
from edgeks.runtime_profile import Profile, profiles_for
from edgeks.target import Format, LiteRtSession, Target

CACHED = "litert-cached"
# Profiles that are there to save RAM, at the price of time or flash → what they save it of, and how much they have to.
SAVING = {"ort-no-prepacking": "ort-unfolded", "ort-lean": "ort-unfolded", CACHED: "litert-xnnpack"}
WORTH_BYTES = 300_000
# Profile → another that it is the same as, where the file leaves nothing to fold or to plan.
USUAL = {"ort-default": "ort-unfolded", "ort-unfolded": "ort-lean"}


@dataclass(frozen=True, slots=True)
class TriedProfile:
    """A profile, and whether it is how the target itself opens a file (but for the number of threads)."""

    profile: Profile
    is_own: bool


def tried_profiles(
    model_format: Format, target: Target, *, on_board: bool
) -> tuple[list[TriedProfile], dict[str, str]]:
    """Profiles to try of a format, the target's own first → and name → why it is left out.

    `on_board`: on another machine, whose runtimes are not this one's.
    """
    tried: list[TriedProfile] = []
    left_out: dict[str, str] = {}
    own = profiles_for(model_format, target)[0]
    for profile in (*profiles_for(model_format), own):
        reason = _cannot_be_tried(profile, on_board=on_board)
        if profile is own and any(_alike(own, each.profile) for each in tried):
            continue
        if reason:
            left_out[profile.name] = reason
        else:
            tried.append(TriedProfile(profile, _alike(profile, own)))
    return sorted(tried, key=lambda each: not each.is_own), left_out


def not_worth_trying(artefact: Artefact, tried: TriedProfile) -> str | None:
    """Why a file need not be measured under a profile, by what is known of it; None where it may be the best."""
    name, form, predicted = tried.profile.name, artefact.form, artefact.predicted_ram
    if name in artefact.unusable:
        return artefact.unusable[name]
    if form is not None and form.layers == "cached" and name != CACHED:
        return f"the form is for {CACHED}"
    if tried.is_own:
        return None
    other = SAVING.get(name) or USUAL.get(name, "")
    ram, others = predicted.get(name), predicted.get(other)
    if ram is None or others is None:
        return None
    if name in SAVING:
        return None if ram + WORTH_BYTES <= others else f"predicted to save no RAM beside {other}"
    return f"as {other}: nothing differs" if ram == others else None


def _alike(one: Profile, other: Profile) -> bool:
    return one.runtime == other.runtime and replace(one.session, threads=other.session.threads) == other.session


def _cannot_be_tried(profile: Profile, *, on_board: bool) -> str | None:
    if isinstance(profile.session, LiteRtSession) and profile.session.kernels == "reference":
        return "plain loops, to check other kernels against"
    if not on_board and importlib.util.find_spec(MODULES[profile.runtime]) is None:
        return f"{profile.runtime} is not installed in this Python"
    return None
