"""Videos in, batches of clips out: shards, decoding, sampling, streaming.

Nothing is imported here, so that making shards in many processes does not pay for the trainer.
"""
