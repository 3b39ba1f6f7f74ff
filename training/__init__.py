"""How the embedded face attribute classifier, `transforms/weights/attributes.onnx`, was made.

`data` reads the images, labels and splits; `augment` varies them; `model` is the network;
`python -m facecap.training.train` fits and exports it; `python -m facecap.training.evaluate`
measures the exported file on the unseen images and writes its card. Training needs the `train`
extra (torch); evaluation runs on the base install. Nothing else in facecap imports this package.
"""
