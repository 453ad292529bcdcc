"""A /proc and /sys of the test's own: cores, their use, their clocks, energy counters."""

from __future__ import annotations

from pathlib import Path


class FakeMachine:
    """Files under `root` as Linux shows them; times in seconds."""

    def __init__(self, root: Path, cores: int = 2) -> None:
        self.root, self.cores = root, cores
        self.use()

    def write(self, name: str, text: object) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        return path

    def use(self, user: float = 0.0, steal: float = 0.0, idle: float = 0.0) -> None:
        """The same on each core, at 100 ticks a second; guest time is inside user."""
        user_t, steal_t, idle_t = (round(100 * t) for t in (user, steal, idle))
        numbers = f"{user_t} 0 0 {idle_t} 0 0 0 {steal_t} {user_t} 0"
        lines = [f"cpu{i} {numbers}" for i in range(self.cores)]
        self.write("proc/stat", "\n".join([f"cpu  {numbers}", *lines, "intr 5 0 0"]))

    def threads(self, *waited: float) -> None:
        """One thread each, with the seconds it has waited for a core."""
        for i, seconds in enumerate(waited):
            self.write(f"proc/self/task/{i}/schedstat", f"7 {round(seconds * 1e9)} 3")

    def siblings(self, *pairs: str) -> None:
        for core, text in enumerate(pairs):
            name = f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
            self.write(name, text)

    def clock(self, *khz: int) -> None:
        for core, rate in enumerate(khz):
            self.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", rate)

    def energy(self, domain: str, name: str, uj: int, range_uj: int = 262_143_328_850) -> None:
        folder = f"sys/class/powercap/{domain}"
        self.write(f"{folder}/name", name)
        self.write(f"{folder}/energy_uj", uj)
        self.write(f"{folder}/max_energy_range_uj", range_uj)
