"""The web page itself: what stands where, and which control asks for what. web/studio.py answers."""

import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import skimage.data
from inference.restore_pcsr import REFINE

from utils.encode import write_image
from utils.errors import InputError
from utils.files import IMAGE_SUFFIXES
from web.source import Ask
from web.studio import Answer, Knobs, Studio

TITLE = "Super-resolution, pixel by pixel"
INTRO = f"""# {TITLE}
A classifier rates every output pixel: easy ones take a light upsampler, hard ones a heavy one. The knob says how many \
are worth it."""
EMPTY = '<p class="hint">Drop a picture or take the sample: the result appears here, and follows the knob.</p>'
LEGEND = '<p class="hint"><i class="light"></i> light upsampler <i class="heavy"></i> heavy upsampler</p>'
STYLE = Path(__file__).with_suffix(".css")
RULES = [("k", "k"), ("Budget", "budget"), ("Automatic", "adaptive")]
SCALES = 2, 8
BUDGET = 0.6  # to begin with
WAITING = 32  # visitors in the queue; the next is told to come again
SWEEP, EXPIRES = 600, 3 * 3600  # seconds: how often files are looked at, and how old they may get


def cards(answer: Answer) -> str:
    """The numbers as HTML."""
    shown = "".join(
        f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
        for label, value, note in answer.numbers
    )
    return f'<div class="cards">{shown}</div>' + (f'<p class="hint">{escape(answer.note)}</p>' if answer.note else "")


def theme() -> Any:
    """The system's fonts, so that none is sent; small print darker than Gradio's, to be read."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    small = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    dark = {f"{name}_dark": "*neutral_400" for name in small}
    return gr.themes.Default(primary_hue="indigo", secondary_hue="indigo", **fonts).set(**small, **dark)


class Page:
    """The controls and the answers of one Studio as Gradio's Blocks."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP, EXPIRES)) as self.blocks:
            gr.Markdown(INTRO, elem_id="intro")
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    self.what()
                with gr.Column(scale=9, min_width=320):
                    self.knob()
                    self.results()
            self.wire()

    def what(self) -> None:
        """The controls that say what to encode."""
        names = list(self.studio.models)
        suffixes = sorted(IMAGE_SUFFIXES)
        self.picture = gr.File(label="Picture", file_types=suffixes, height=140, elem_id="picture")
        self.try_sample = gr.Button("Take the sample picture", size="sm", elem_id="sample")
        with gr.Group():
            self.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
            self.scale = gr.Slider(*SCALES, value=4, step=0.1, label="Scale", elem_id="scale")
            self.shrink = gr.Checkbox(
                label="Shrink first", info="then restore, and measure against the picture itself", elem_id="shrink"
            )
        with gr.Accordion("Measure against a reference", open=False) as self.measure:
            self.reference = gr.File(
                label="The same picture in full size", file_types=suffixes, height=140, elem_id="reference"
            )

    def knob(self) -> None:
        """The controls that an encoding answers."""
        with gr.Group():
            with gr.Row():
                self.rule = gr.Radio(RULES, value="k", label="Which pixels are heavy?", elem_id="rule", min_width=270)
                self.k = gr.Slider(
                    -1, 2, value=0, step=0.05, label="k", info="larger is cheaper", elem_id="k", min_width=250
                )
                floor = self.studio.floor(max(SCALES))  # fixed: what a page had sent before it moved would be refused
                self.budget = gr.Slider(
                    floor,
                    1,
                    value=max(floor, BUDGET),
                    step=0.01,
                    label="Budget",
                    info=self.limit(self.model.value, self.scale.value),
                    visible=False,
                    elem_id="budget",
                    min_width=250,
                )
            self.refinement = gr.Checkbox(
                label="Refinement", info="smooths light pixels beside heavy ones", value=REFINE, elem_id="refinement"
            )

    def results(self) -> None:
        self.numbers = gr.HTML(EMPTY, padding=False, elem_id="numbers")
        look: dict[str, Any] = {"interactive": False, "show_label": False, "buttons": ["fullscreen"]}
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.compare = gr.ImageSlider(max_height=600, elem_id="compare", **look)
            with gr.Column(scale=3, min_width=240):
                self.overlay = gr.Image(type="filepath", elem_id="overlay", **look)
                gr.HTML(LEGEND, padding=False, elem_id="legend")
                self.enlarged = gr.Radio(
                    ["bicubic", "nearest"], value="bicubic", label="Left of the slider", elem_id="enlarged"
                )
                self.download = gr.DownloadButton(
                    "Download PNG", variant="primary", interactive=False, elem_id="download"
                )

    def wire(self) -> None:
        """Which control asks for what. Whatever computes waits in one queue."""
        knobs = [self.rule, self.k, self.budget, self.refinement, self.enlarged]
        inputs = [self.picture, self.reference, self.shrink, self.model, self.scale, *knobs]
        outputs = [self.compare, self.overlay, self.numbers, self.download]
        compute: dict[str, Any] = {
            "fn": self.turn,
            "inputs": inputs,
            "outputs": outputs,
            "concurrency_id": "compute",
            "concurrency_limit": 1,
            "trigger_mode": "always_last",
            "show_progress": "minimal",
            "show_progress_on": self.numbers,
            "api_visibility": "private",
        }
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        files = [event for file in (self.picture, self.reference) for event in (file.upload, file.clear)]
        moved = [control.input for control in (self.shrink, self.model, self.scale, *knobs)]
        gr.on([*files, *moved], **compute)
        self.try_sample.click(self.sample, None, [self.picture, self.shrink], **at_once).then(**compute)
        self.rule.change(
            lambda rule: (gr.Slider(visible=rule == "k"), gr.Slider(visible=rule == "budget")),
            self.rule,
            [self.k, self.budget],
            **at_once,
        )
        self.shrink.change(lambda on: gr.Accordion(visible=not on), self.shrink, self.measure, **at_once)
        gr.on(
            [self.model.change, self.scale.change],
            lambda model, scale: gr.Slider(info=self.limit(model, scale)),
            [self.model, self.scale],
            self.budget,
            **at_once,
        )
        self.blocks.unload(self.leave)

    def turn(
        self,
        picture: str | None,
        reference: str | None,
        shrink: bool,
        model: str,
        scale: float,
        rule: str,
        k: float,
        budget: float,
        refinement: bool,
        enlarged: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Whatever was moved: the pictures and numbers that follow."""
        for stray in self.studio.root.glob("tmp*"):
            if stray.is_file():  # gr.File leaves an empty one behind whenever it is read
                stray.unlink(missing_ok=True)
        visitor = str(request.session_hash)
        nothing = gr.DownloadButton(value=None, interactive=False)
        if picture is None:
            self.studio.forget(visitor)
            yield None, None, EMPTY, nothing
            return
        ask = Ask(Path(picture), Path(reference) if reference else None, shrink, model, scale)
        try:
            for answer in self.studio.answer(visitor, ask, Knobs(rule, k, budget, refinement, enlarged)):
                download = gr.DownloadButton(value=answer.after, interactive=True)
                yield (answer.before, answer.after), answer.overlay, cards(answer), download
        except InputError as error:
            yield None, None, f'<p class="problem" role="alert">{escape(str(error))}</p>', nothing

    def sample(self) -> tuple[str, bool]:
        """The sample picture, anew as files expire; and that it be shrunk first."""
        path = self.studio.root / "sample" / "astronaut.png"
        write_image(path, skimage.data.astronaut())
        return str(path), True

    def limit(self, model: str, scale: float) -> str:
        """What the budget is, and how low it goes."""
        return f"of the FLOPs of all heavy; all light is {self.studio.least_budget(model, scale):.2f}"

    def leave(self, request: gr.Request) -> None:
        self.studio.forget(str(request.session_hash))


def serve(studio: Studio, host: str, port: int, max_mb: float) -> None:
    """Serve the page until interrupted. Raises InputError for an address that cannot be listened on."""
    page = Page(studio).blocks.queue(max_size=WAITING)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=int(max_mb * 1e6),
            theme=theme(),
            css_paths=STYLE,
            share=False,
            inbrowser=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError:
        raise InputError(f"--host {host} --port {port}: taken, or no address of this machine; choose another") from None
    print(f"open http://{host}:{port} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)
