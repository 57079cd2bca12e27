"""A protocol in one file: vla-cl run protocol=thorough --plugin thorough.py"""

from vla_cl.protocols import register_protocol

register_protocol("thorough", episodes=100, slots=20, zero_shot=True, upper_triangle=True, instructions="paraphrased")
