"""A service: trained models that stay loaded, reached over HTTP by 3D Slicer, scripts and other programs.

`door` lets requests in; `app` has the routes of `monai_label`, `datastore`, `job_api` and `health`. `desk`
takes orders: what is sent goes into folders (`uploads`, `kept`), jobs into queues (`jobs`, `queues`), one for
each device, and `labelling` does them by the models that are loaded (`models`). `server` is the port.
"""
