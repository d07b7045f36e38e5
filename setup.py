"""Says how to use the project, to whoever tries `pip install .`: its packages (`utils`, `models`) are no one's to share."""

REMEDY = (
    "PCSR is used from its own folder and installs nothing into yours: pip install -r requirements.txt there, then "
    "python demo.py; from Python, torch.hub.load(FOLDER, 'carn_pcsr', source='local') (docs/upscaling.md)"
)

raise SystemExit(f"error: {REMEDY}")
