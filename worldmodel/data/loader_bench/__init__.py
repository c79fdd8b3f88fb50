"""What `worldmodel.data.bench` measures: videos made on the spot, decoders, whole pipelines.

`subject` runs in processes of their own, some of them with an interpreter that has the peers and
little else. So nothing here imports more than the one subject in question needs.
"""
