"""The runtime profiles that a file is tried under, each once, and those that are left out, with the reason."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from edgeks.measured_footprint import MODULES
from edgeks.runtime_profile import Profile, profiles_for
from edgeks.target import Format, LiteRtSession, Target


@dataclass(frozen=True, slots=True)
class TriedProfile:
    """A profile, and whether it is how the target itself opens a file (but for the number of threads)."""

    profile: Profile
    is_own: bool


def tried_profiles(model_format: Format, target: Target) -> tuple[list[TriedProfile], dict[str, str]]:
    """Profiles to try of a format, the target's own first → and name → why it is left out."""
    tried: list[TriedProfile] = []
    left_out: dict[str, str] = {}
    own = profiles_for(model_format, target)[0]
    for profile in (*profiles_for(model_format), own):
        reason = _cannot_be_tried(profile)
        if profile is own and any(_alike(own, each.profile) for each in tried):
            continue
        if reason:
            left_out[profile.name] = reason
        else:
            tried.append(TriedProfile(profile, _alike(profile, own)))
    return sorted(tried, key=lambda each: not each.is_own), left_out


def _alike(one: Profile, other: Profile) -> bool:
    return one.runtime == other.runtime and replace(one.session, threads=other.session.threads) == other.session


def _cannot_be_tried(profile: Profile) -> str | None:
    if isinstance(profile.session, LiteRtSession) and profile.session.kernels == "reference":
        return "plain loops, to check other kernels against"
    if importlib.util.find_spec(MODULES[profile.runtime]) is None:
        return f"{profile.runtime} is not installed in this Python"
    return None
