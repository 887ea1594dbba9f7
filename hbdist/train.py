"""Training of one dense retriever, from start to end. Run by `accelerate launch hbdist/train.py CONFIG.toml [key=value …]`.

This file is run as a script, which puts its folder first on sys.path: imports are absolute, and no module of hbdist may have
the name of another package.
"""

if __name__ == "__main__":
    # What can be wrong with the input is found before torch is imported; `train` below is then called from there.
    import signal
    import sys

    from hbdist.distributed.orphans import end_with_launcher

    end_with_launcher()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a run has its own handler; before it, there is nothing to show

    from hbdist.launch.entry import main

    sys.exit(main())

from hbdist.config.config import Config, how_to_extend
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.engine import Engine
from hbdist.distributed.meeting import Meeting
from hbdist.models.encoder import Encoder
from hbdist.runs.plan import Plan
from hbdist.runs.run import Outcome, Run
from hbdist.training.data_checks import check_data
from hbdist.training.export import export
from hbdist.training.loader import Batches, measure_token_rates, must_read
from hbdist.training.metrics import StepMeter
from hbdist.training.module import TrainingModule
from hbdist.training.monitor import TrainingMonitor
from hbdist.training.optimizer import learning_rate, make_optimizer
from hbdist.training.step import ContrastiveStep
from hbdist.training.watch import NumberWatch


def train(config: Config, manifest: Manifest | None = None, meeting: Meeting | None = None) -> Outcome:
    """Train one dense retriever, resuming from the newest checkpoint in its run folder.

    Args:
        manifest, meeting: data and the ranks' meeting, if they have been loaded and have met already.

    Raises:
        HbdistError: something in the user's input is wrong.
        RankLostError: another rank has died, or has never come.
    """
    engine = Engine.start(config, meeting=meeting)
    run = Run(config, is_main=engine.is_main)
    with run.underway(engine):
        manifest = manifest or Manifest.load(config.data.shards)
        checkpoints = run.find_checkpoints(engine, manifest)
        if engine.broadcast_object(run.finished()):
            run.say(f"{run.folder} is done already. {how_to_extend(config)}")
            engine.stop()
            return Outcome.done("done already")
        notes = check_data(config, manifest, rank=engine.rank, world=engine.world)
        run.announce(Plan.of(config, manifest, ranks=engine.world, zero=engine.zero), manifest, engine.hardware)

        encoder = Encoder.load(config.model)
        for note in (*notes, *encoder.notes):
            run.say(note)
        rates = engine.broadcast_object(measure_token_rates(manifest, encoder.tokenize, must_read=must_read(config)))
        batches = Batches(config, manifest, encoder.tokenize, token_rates=rates, rank=engine.rank, world=engine.world)
        done, state = run.resume(engine, checkpoints)
        monitor = TrainingMonitor(config, encoder, engine, run, manifest)
        module = TrainingModule(encoder, config)
        model = engine.prepare(module, make_optimizer(module, config.optimizer), state)
        contrastive_step = ContrastiveStep(model, config, engine, report=run.say)
        del state  # every rank has loaded all of it
        monitor.measure(contrastive_step, done)  # in case an interruption came before it

        meter, watch = StepMeter(config, engine.device), NumberWatch(config)
        for batch in meter.timed(batches.from_step(config.steps if monitor.exhausted else done)):
            parts = contrastive_step(batch)
            lr = learning_rate(batch.step, config.optimizer, steps=config.steps)
            norm = engine.update(lr)
            metrics = watch.check(meter.measure(batch, parts, lr=lr, grad_norm=norm, **contrastive_step.seen))
            run.record(metrics, batch.ids)
            engine.track(metrics, metrics["step"])

            done, stop = metrics["step"], engine.any_rank(run.stop.raised)
            if stop or done == config.steps or config.checkpoint.due(done):
                run.save(engine, manifest, done)
            if stop:
                return run.end(Outcome.interrupted(f"interrupted after step {done}; start it again to resume"), engine)
            monitor.measure(contrastive_step, done)
            if monitor.exhausted:
                break

        weights = engine.weights()
        if engine.is_main:
            steps, exported = monitor.weights_to_export(weights, done)
            export(
                encoder, run.folder / "model", config, weights=exported, steps=steps, fingerprint=manifest.fingerprint
            )
        return run.end(Outcome.done(monitor.summary(done)), engine)
