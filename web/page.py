"""The web page: its controls, and what happens when one is moved. web/session.py makes what it shows."""

import math
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import skimage.data
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from inference.automatic import CLEAN_QUALITY
from models.decide import least_budget
from models.setting import Setting, choose
from utils.errors import InputError
from utils.files import IMAGE_SUFFIXES
from web.session import AUTOMATIC, Answer, Ask, Service, Session, memory_named
from web.views import Place

TITLE = "Pictures made larger"
INTRO = f"""# {TITLE}
Easy pixels take a light network, difficult ones a heavy one. Clean pictures come out best: with models for clean \
pictures, noise and the traces of strong compression grow with the rest."""
BY_FILE = (
    f"Automatic: for photographs if the file is a JPEG of quality up to {CLEAN_QUALITY} or lossy WebP, "
    "else for clean pictures"
)
EMPTY = '<p class="hint">Send a picture or take the sample: the result appears here.</p>'
LEGEND = '<p class="hint"><i class="light"></i> light network <i class="heavy"></i> heavy network</p>'
MAP = '<p class="hint">Touch the map to look at a place in full size:</p>'
CARD = '<div class="card"><span>{}</span><b>{}</b><small>{}</small></div>'
NOTE = '<p class="hint">Note: {}</p>'
DOWNLOADS = [("PNG", ".png"), ("TIFF", ".tif"), ("JPEG", ".jpg"), ("WebP", ".webp")]
EXAMPLE = Path(skimage.data.__file__).with_name("astronaut.png")
SCALES = 2, 8
WAITING = 32  # visitors in the queue; the next one is told to come again
SWEEP, EXPIRES = 600, 3 * 3600  # seconds: how often files are looked at, and how old files and sessions may get
CALL = "call-"  # how the folders of results begin that programs asked for
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none has to be fetched
LOCAL = ["127.0.0.1", "localhost"]
PRIVATE: dict[str, Any] = {"share": False, "run_history": False, "enable_monitoring": False, "footer_links": []}
PATIENT: dict[str, Any] = {"_frontend": False}  # a page that does not answer itself in 3 seconds would be given up
PICTURE: dict[str, Any] = {"file_types": sorted(IMAGE_SUFFIXES), "height": 110}
RESULT: dict[str, Any] = {"interactive": False, "show_label": False, "buttons": ["fullscreen"]}
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 1}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Page:
    """The controls as Gradio's Blocks, whose State keeps the sessions of the visitors apart."""

    def __init__(self, service: Service) -> None:
        self.service = service
        floor = math.floor(100 * min(least_budget(each.flops, max(SCALES)) for each in service.engines.values())) / 100
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP, EXPIRES)) as self.blocks:
            # closed when its visitor has left for an hour, or has moved nothing for EXPIRES seconds
            self.session = gr.State(time_to_live=EXPIRES, delete_callback=lambda session: session and session.close())
            gr.Markdown(INTRO)
            with gr.Row(elem_id="layout"):
                with gr.Column(elem_id="send", min_width=280):
                    self.picture = gr.File(label="Picture", elem_id="picture", **PICTURE)
                    self.sample = gr.Button("Take the sample picture", size="sm", elem_id="sample")
                with gr.Column(elem_id="result", min_width=280):
                    self.add_result()
                with gr.Column(elem_id="settings", min_width=280):
                    self.add_settings(service.models, floor)
            self.add_events()

    def add_result(self) -> None:
        """What is shown of a result, and hidden before there is one."""
        with gr.Column(visible=False) as self.shown:
            self.compare = gr.ImageSlider(max_height=560, elem_id="compare", **RESULT)
            with gr.Row():
                self.kind = gr.Radio(DOWNLOADS, value=".png", show_label=False, container=False, elem_id="kind")
                self.download = gr.DownloadButton("Download", variant="primary", elem_id="download")
        self.numbers = gr.HTML(EMPTY, padding=False, elem_id="numbers")
        with gr.Row(visible=False) as self.details:
            with gr.Column(scale=3, min_width=280):
                gr.HTML(MAP, padding=False)
                self.overlay = gr.Image(elem_id="overlay", **RESULT)
                gr.HTML(LEGEND, padding=False, elem_id="legend")
            with gr.Column(scale=4, min_width=280):
                gr.HTML('<p class="hint">Full size, before and after:</p>', padding=False)
                self.loupe = gr.ImageSlider(elem_id="loupe", **RESULT)

    def add_settings(self, models: list[str], floor: float) -> None:
        """What a visitor can choose."""
        with gr.Group():
            self.scale = gr.Slider(*SCALES, 4, step=0.1, label="Times as wide and high")
            rules = [
                ("By the slider", "k"),
                ("By a share of the work", "budget"),
                ("By the picture itself", "adaptive"),
            ]
            self.rule = gr.Radio(rules, value="k", label="How are difficult pixels found?", elem_id="rule")
            self.k = gr.Slider(-1, 2, 0, step=0.05, label="Slower and better ... faster (k)", elem_id="k")
            self.budget = gr.Slider(  # whose ends stay: a value beyond them would be refused
                floor, 1, max(floor, 0.6), step=0.01, label="Share of the work", elem_id="budget"
            )
            self.refinement = gr.Checkbox(True, label="Smooth light pixels beside heavy ones")
            about = BY_FILE if AUTOMATIC in models else None
            choices = [("Automatic" if name == AUTOMATIC else name, name) for name in models]
            self.model = gr.Dropdown(choices, value=models[0], label="Model", info=about, elem_id="model")
        with gr.Group():
            self.shrink = gr.Checkbox(
                label="Try it: shrink the picture first", info="then restore it, and compare with it", elem_id="shrink"
            )
        with gr.Accordion("Compare with the same picture in full size", open=False) as self.measure:
            self.reference = gr.File(label="The picture in full size", **PICTURE)

    def add_endpoint(self) -> None:
        """What programs can call by gradio_client; nobody sees it on the page."""
        with gr.Column(visible=False):
            picture, made = gr.File(label="picture"), [gr.File(label="result"), gr.Textbox(label="notes")]
            model = gr.Textbox(self.service.models[0], label="model")
            numbers = [gr.Number(4, label="scale"), gr.Number(0, label="k"), gr.Textbox("png", label="kind")]
            ask = [picture, model, *numbers]
            gr.Button().click(self.upscale, ask, made, api_name="upscale", **ONE_AT_A_TIME)

    def upscale(self, picture: str | None, model: str, scale: float, k: float, kind: str) -> tuple[str, str]:
        """The file of a picture made larger, by the rule of k; and notes: the model that was taken, what is left out.

        Raises gr.Error for what cannot be done.
        """
        if model not in self.service.models or f".{kind}" not in dict(DOWNLOADS).values() or picture is None:
            names = ", ".join(self.service.models)
            message = f"give a picture, a model of {names}, and png, tif, jpg or webp as the kind"
            raise gr.Error(message, print_exception=False)
        try:
            setting = choose(k, scale=scale)
            session = Session(Ask(Path(picture), None, False, model, setting.scale), self.service)
            try:
                with memory_named():
                    path, notes = session.only_file(self.folder_of_call(), setting, f".{kind}")
                return str(path), "; ".join(notes)
            finally:
                session.close()
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def folder_of_call(self) -> Path:
        """A folder for the result of one call; those of calls long ago go."""
        for old in self.service.root.glob(f"{CALL}*"):
            if time.time() - old.stat().st_mtime > EXPIRES:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=CALL, dir=self.service.root))

    def remove_strays(self) -> None:
        """gr.File leaves an empty file behind whenever it is read. Files that are being uploaded lie there, too."""
        for stray in self.service.root.glob("tmp*"):
            with suppress(FileNotFoundError):  # an upload has ended
                facts = stray.stat()
                if stat.S_ISREG(facts.st_mode) and not facts.st_size and time.time() - facts.st_mtime > SWEEP:
                    stray.unlink()

    def add_events(self) -> None:
        """Say which control starts what. All that computes waits in one queue."""
        moved = [self.shrink, self.model, self.scale, self.rule, self.k, self.budget, self.refinement, self.kind]
        files = [event for file in (self.picture, self.reference) for event in (file.upload, file.clear)]
        compute: dict[str, Any] = {
            "fn": self.answer,
            "inputs": {self.session, self.picture, self.reference, *moved},
            "outputs": [self.session, self.shown, self.details, *self.pictures(), self.numbers, self.download],
            **ONE_AT_A_TIME,
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

        looking: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", **ONE_AT_A_TIME}
        # every touch, one after another: of the other modes one drops a touch that comes early, one repeats the first
        self.overlay.select(self.look, self.session, self.loupe, trigger_mode="multiple", **looking)
        self.add_endpoint()

    def pictures(self) -> list[Any]:
        return [self.compare, self.overlay, self.loupe]

    def look(self, session: Session | None, touched: gr.SelectData) -> Any:
        """The loupe at the place of the map that was touched; nothing if the picture can no longer be read."""
        if session is None or session.shown is None:
            return None
        across, down = touched.index
        height, width = session.shown
        with suppress(InputError):
            return session.look(Place(down / height, across / width))
        return None

    def adapt(self, shrink: bool, rule: str, model: str, scale: float) -> tuple[Any, ...]:
        """Show the controls that matter, and how low the budget goes."""
        least = dict.fromkeys(f"{least_budget(each.flops, scale):.2f}" for each in self.service.behind(model))
        info = f"1 is all heavy; all light is {' or '.join(least)}"
        budget = gr.Slider(visible=rule == "budget", info=info)
        return gr.Accordion(visible=not shrink), gr.Slider(visible=rule == "k"), budget

    def filled(self, answer: Answer) -> dict[Any, Any]:
        """What the page shows for an answer."""
        cards = "".join(CARD.format(*map(escape, number)) for number in answer.numbers)
        notes = "".join(NOTE.format(escape(note)) for note in answer.notes)
        return {
            self.shown: gr.Column(visible=True),
            self.details: gr.Row(visible=True),
            self.compare: (answer.before, answer.after),
            self.overlay: answer.overlay,
            self.loupe: answer.loupe,
            self.numbers: f'<div class="cards">{cards}</div>{notes}',
            self.download: gr.DownloadButton(value=answer.download),
        }

    def answer(self, given: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
        """From what the controls say to what they show."""
        self.remove_strays()
        picture, reference = (Path(given[file]) if given[file] else None for file in (self.picture, self.reference))
        ask = Ask(picture, reference, given[self.shrink], given[self.model], given[self.scale]) if picture else None
        session = given[self.session]
        if session and (session.closed or session.ask != ask):
            session.close()
            session = None
        if ask and not session:
            session = Session(ask, self.service)
        hidden = {self.shown: gr.Column(visible=False), self.details: gr.Row(visible=False)}
        nothing = {self.session: session, self.numbers: EMPTY, **hidden, **dict.fromkeys(self.pictures())}
        nothing[self.download] = gr.DownloadButton(value=None)
        if session is None:
            yield nothing
            return
        values = {"k": given[self.k], "budget": given[self.budget], "adaptive": 0.0}
        try:
            rule = given[self.rule]
            setting = Setting(rule, values[rule], given[self.refinement], given[self.scale])
            with memory_named():
                for answer in session.answer(setting, given[self.kind]):
                    yield {self.session: session, **self.filled(answer)}
        except InputError as error:
            yield {**nothing, self.numbers: f'<p class="problem" role="alert">{escape(str(error))}</p>'}
        except Exception:  # the page may not know the session yet, and nobody else would delete its files
            session.close()
            raise


def serve(service: Service, host: str, port: int, max_mb: float) -> None:
    """Serve the page until it is interrupted. Raises InputError for an address that cannot be listened on."""
    page = Page(service).blocks.queue(max_size=WAITING)
    theme = gr.themes.Default(primary_hue="indigo", secondary_hue="indigo", **FONTS)
    style = {"theme": theme, "css_paths": Path(__file__).with_suffix(".css")}
    limits: dict[str, Any] = {"max_file_size": int(max_mb * 1e6), "allowed_paths": [str(EXAMPLE)]}
    if host in LOCAL:  # a page elsewhere could have its own name point here, and read what a visitor sends
        limits["app_kwargs"] = {"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)]}
    try:
        socket.getaddrinfo(host, port)  # what is no address at all would end Gradio with a traceback
        page.launch(
            prevent_thread_lock=True,
            quiet=True,
            server_name=host,
            server_port=port,
            **limits,
            **style,
            **PRIVATE,
            **PATIENT,
        )
    except (OSError, UnicodeError):
        raise InputError(f"{host}:{port} is taken, or no address of this machine; choose another") from None
    print(f"open http://{host}:{port} (Ctrl-C ends it)", flush=True)
    try:
        until_interrupted()
    finally:
        page.close(verbose=False)


def until_interrupted() -> None:
    while True:  # one wait without end would miss a signal that the system gives to another thread
        time.sleep(1)
