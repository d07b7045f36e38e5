"""The web page: its controls, and what happens when one is moved. web/session.py makes what it shows."""

import math
import threading
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import skimage.data

from models.decide import least_budget
from models.setting import Setting
from utils.errors import InputError
from utils.files import IMAGE_SUFFIXES
from web.session import Ask, Service, Session

TITLE = "Super-resolution, pixel by pixel"
INTRO = f"""# {TITLE}
A classifier rates every output pixel: easy ones take a light upsampler, hard ones a heavy one. The knob says how many \
are worth it."""
EMPTY = '<p class="hint">Drop a picture or take the sample: the result appears here, and follows the knob.</p>'
LEGEND = '<p class="hint"><i class="light"></i> light upsampler <i class="heavy"></i> heavy upsampler</p>'
CARD = '<div class="card"><span>{}</span><b>{}</b><small>{}</small></div>'
EXAMPLE = Path(skimage.data.__file__).with_name("astronaut.png")
SCALES = 2, 8
WAITING = 32  # visitors in the queue; the next one is told to come again
SWEEP, EXPIRES = 600, 3 * 3600  # seconds: how often files are looked at, and how old files and sessions may get
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none has to be fetched
PRIVATE: dict[str, Any] = {"share": False, "run_history": False, "enable_monitoring": False, "footer_links": []}
PICTURE: dict[str, Any] = {"file_types": sorted(IMAGE_SUFFIXES), "height": 140}
RESULT: dict[str, Any] = {"interactive": False, "show_label": False, "buttons": ["fullscreen"]}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Page:
    """The controls as Gradio's Blocks, whose State keeps the sessions of the visitors apart."""

    def __init__(self, service: Service) -> None:
        self.service = service
        floor = math.floor(100 * min(self.least_budget(model, max(SCALES)) for model in service.engines)) / 100
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP, EXPIRES)) as self.blocks:
            # closed when its visitor has left for an hour, or has moved nothing for EXPIRES seconds
            self.session = gr.State(time_to_live=EXPIRES, delete_callback=lambda session: session and session.close())
            gr.Markdown(INTRO)
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    self.picture = gr.File(label="Picture", elem_id="picture", **PICTURE)
                    self.sample = gr.Button("Take the sample picture", size="sm", elem_id="sample")
                    with gr.Group():
                        self.model = gr.Dropdown(list(service.engines), label="Model")
                        self.scale = gr.Slider(*SCALES, 4, step=0.1, label="Scale")
                        self.shrink = gr.Checkbox(
                            label="Shrink first", info="then restore, and compare with the picture", elem_id="shrink"
                        )
                    with gr.Accordion("Measure against a reference", open=False) as self.measure:
                        self.reference = gr.File(label="The same picture in full size", **PICTURE)
                with gr.Column(scale=9, min_width=320):
                    with gr.Group():
                        with gr.Row():
                            rules = [("k", "k"), ("Budget", "budget"), ("Automatic", "adaptive")]
                            self.rule = gr.Radio(
                                rules, value="k", label="Which pixels are heavy?", elem_id="rule", min_width=270
                            )
                            self.k = gr.Slider(
                                -1, 2, 0, step=0.05, label="k", info="larger is cheaper", elem_id="k", min_width=250
                            )
                            self.budget = gr.Slider(  # whose ends stay: a value beyond them would be refused
                                floor, 1, max(floor, 0.6), step=0.01, label="Budget", elem_id="budget", min_width=250
                            )
                        self.refinement = gr.Checkbox(
                            True, label="Refinement", info="smooths light pixels beside heavy ones"
                        )
                    self.numbers = gr.HTML(EMPTY, padding=False, elem_id="numbers")
                    with gr.Row():
                        with gr.Column(scale=5, min_width=320):
                            self.compare = gr.ImageSlider(max_height=600, elem_id="compare", **RESULT)
                        with gr.Column(scale=3, min_width=240):
                            self.overlay = gr.Image(elem_id="overlay", **RESULT)
                            gr.HTML(LEGEND, padding=False, elem_id="legend")
                            self.download = gr.DownloadButton(
                                "Download PNG", variant="primary", interactive=False, elem_id="download"
                            )
            self.add_events()

    def add_events(self) -> None:
        """Say which control starts what. All that computes waits in one queue."""
        moved = [self.shrink, self.model, self.scale, self.rule, self.k, self.budget, self.refinement]
        files = [event for file in (self.picture, self.reference) for event in (file.upload, file.clear)]
        compute: dict[str, Any] = {
            "fn": self.answer,
            "inputs": {self.session, self.picture, self.reference, *moved},
            "outputs": [self.session, self.compare, self.overlay, self.numbers, self.download],
            "concurrency_id": "compute",
            "concurrency_limit": 1,
            "trigger_mode": "always_last",
            "show_progress": "minimal",
            "show_progress_on": self.numbers,
            "api_visibility": "private",
        }
        gr.on([*files, *(control.input for control in moved)], **compute)
        taken = self.sample.click(lambda: (str(EXAMPLE), True), None, [self.picture, self.shrink], **AT_ONCE)
        taken.then(**compute)
        shaping = [self.shrink, self.rule, self.model, self.scale]
        events = [self.blocks.load, *(control.change for control in shaping)]
        gr.on(events, self.adapt, shaping, [self.measure, self.k, self.budget], **AT_ONCE)

    def adapt(self, shrink: bool, rule: str, model: str, scale: float) -> tuple[Any, ...]:
        """Show the controls that matter, and how low the budget goes."""
        info = f"of the FLOPs of all heavy; all light is {self.least_budget(model, scale):.2f}"
        budget = gr.Slider(visible=rule == "budget", info=info)
        return gr.Accordion(visible=not shrink), gr.Slider(visible=rule == "k"), budget

    def least_budget(self, model: str, scale: float) -> float:
        return least_budget(self.service.engines[model].account, scale)

    def answer(self, given: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
        """From what the controls say to what they show."""
        for stray in self.service.root.glob("tmp*"):
            if stray.is_file():  # gr.File leaves an empty one behind whenever it is read
                stray.unlink(missing_ok=True)
        picture, reference = (Path(given[file]) if given[file] else None for file in (self.picture, self.reference))
        ask = Ask(picture, reference, given[self.shrink], given[self.model], given[self.scale]) if picture else None
        session = given[self.session]
        if session and session.ask != ask:
            session.close()
            session = None
        if ask and not session:
            session = Session(ask, self.service)
        nothing = {self.session: session, self.compare: None, self.overlay: None, self.numbers: EMPTY}
        nothing[self.download] = gr.DownloadButton(value=None, interactive=False)
        if session is None:
            yield nothing
            return
        values = {"k": given[self.k], "budget": given[self.budget], "adaptive": 0.0}
        try:
            setting = Setting(given[self.rule], values[given[self.rule]], given[self.refinement], given[self.scale])
            for answer in session.answer(setting):
                cards = "".join(CARD.format(*map(escape, number)) for number in answer.numbers)
                yield {
                    self.session: session,
                    self.compare: (answer.before, answer.after),
                    self.overlay: answer.overlay,
                    self.numbers: f'<div class="cards">{cards}</div>',
                    self.download: gr.DownloadButton(value=answer.after, interactive=True),
                }
        except InputError as error:
            yield {**nothing, self.numbers: f'<p class="problem" role="alert">{escape(str(error))}</p>'}


def serve(service: Service, host: str, port: int, max_mb: float) -> None:
    """Serve the page until it is interrupted. Raises InputError for an address that cannot be listened on."""
    page = Page(service).blocks.queue(max_size=WAITING)
    theme = gr.themes.Default(primary_hue="indigo", secondary_hue="indigo", **FONTS)
    style = {"theme": theme, "css_paths": Path(__file__).with_suffix(".css")}
    limits = {"max_file_size": int(max_mb * 1e6), "allowed_paths": [str(EXAMPLE)]}
    try:
        page.launch(
            prevent_thread_lock=True, quiet=True, server_name=host, server_port=port, **limits, **style, **PRIVATE
        )
    except OSError:
        raise InputError(f"{host}:{port} is taken, or no address of this machine; choose another") from None
    print(f"open http://{host}:{port} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)
