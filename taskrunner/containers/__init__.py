"""The containers room: a step of the plan becomes a sibling container, and its end a `StepResult`.

`convert` says what a container should be (pure), `images` and `registry` see that its image is there,
`following` hears it out, also across a broken connection (`replay`), `capture` and `streams` take its output,
`ending` stops it, `lifetime` leaves none behind, `executor` tells its life as events,
`ownership` gives its files back to us, and `engine` is the only one who talks to Docker.
"""
