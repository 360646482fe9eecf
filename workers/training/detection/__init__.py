"""Transfer to object detection: Faster R-CNN on the features of a trained network."""
