"""A machine whose processes say what a test has written down: streams without runtimes and without waiting."""

from edgeks.bench.stream import Memory, OpTime, RunnerStream, State, WarmUp

FACTS = {"runtime": "onnxruntime", "runtime_version": "1.31", "machine": "aarch64", "cpu": "Cortex-A72", "cores": 4}


def state(moment, seconds, **values):
    return State(moment, seconds, (0,), 4, others_cpu_s=0.0, **values)


class ScriptedMachine:
    """Each process takes the next samples; `disturbed` are the numbers (from 0) of those that get hot."""

    name = "scripted"
    is_emulated = False

    def __init__(self, next_samples, disturbed=(), log=None):
        self.next_samples, self.disturbed, self.log = next_samples, set(disturbed), log
        self.configs = []

    def facts(self):
        return {"model": "Raspberry Pi 4"}

    def run(self, path, config, on_progress=None):
        number = len(self.configs)
        self.configs.append(config)
        if self.log is not None:
            self.log.append(path.name)
        samples = list(self.next_samples())
        if on_progress:
            for done in (0, len(samples) // 2, len(samples)):
                on_progress(done)
        temperature = 85.0 if number in self.disturbed else 60.0
        profiled = (OpTime("conv", "Conv", 1.0),) if config.get("profile") else None
        return RunnerStream(
            facts=dict(FACTS),
            inputs={},
            load_ms=1.0,
            first_inference_ms=2.0,
            warmup=WarmUp(10, 0.2, True),
            samples=samples,
            memory=[Memory("start", 1, 1, 0, 1)],
            states=[state("before", 0.0), state("after", 1.0, temperature_c=temperature)],
            ops=profiled,
            ended=True,
        )

    def outputs(self, path, config):
        raise NotImplementedError
