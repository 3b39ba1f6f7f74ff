"""Which faces look like a face of another split, judged by a face embedding.

CelebA shows most people many times and the data has no identities, so a face of the test split
can be of a person in the train split. This tells how much of a figure may come from that.
"""

import cv2
import numpy as np
import onnxruntime

from .data import ALIGNMENT_TEMPLATE

NEAR = 0.5  # cosine of two embeddings

# The five points for 112 x 112 of ArcFace (arXiv 1801.07698), in the order of ALIGNMENT_TEMPLATE.
ARCFACE_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def embed(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Unit embeddings float32 [n, d] of aligned faces uint8 [n, 109, 89, 3], RGB.

    The model takes float32 [1, 3, 112, 112], RGB 0-255, in ArcFace's alignment.
    """
    source = np.array(list(ALIGNMENT_TEMPLATE.values()), np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(source, np.array(ARCFACE_TEMPLATE, np.float32))
    name = session.get_inputs()[0].name
    rows = []
    for image in images:
        face = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_CUBIC)
        rgb = face.transpose(2, 0, 1)[None].astype(np.float32)
        rows.append(session.run(None, {name: rgb})[0][0])
    vectors = np.array(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def has_neighbour(
    session: onnxruntime.InferenceSession, images: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """True [n] for the images with a cosine over NEAR to any of the others, both uint8 RGB."""
    cosine = embed(session, images) @ embed(session, others).T
    return cosine.max(1) > NEAR
