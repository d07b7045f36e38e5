"""Tells whoever tries `pip install .` how to use the project, whose packages have too common names to be installed."""

REMEDY = (
    "PCSR is used from its own folder and installs nothing into yours: pip install -r requirements.txt there, then "
    "python demo.py; from Python, torch.hub.load(FOLDER, 'carn_pcsr', source='local') (docs/upscaling.md)"
)

raise SystemExit(f"error: {REMEDY}")
