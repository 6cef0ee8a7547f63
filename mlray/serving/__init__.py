"""From a registered version to answers over HTTP; `predictor` decides, `app` is Ray Serve."""
