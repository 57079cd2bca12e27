"""Fog: what is seen fades into grey."""

from vla_cl.envs.perturbations import PERTURBATIONS, Perturbation


@PERTURBATIONS.decorator("fog")
class Fog(Perturbation):
    """Every picture fades into grey by this share, a little more or less in each."""

    levels = {"small": 0.2, "medium": 0.4, "large": 0.7}
    unit = "share of grey"
    largest = 0.9
    is_seen = True

    def seen(self, image, generator):
        """The image, faded."""
        share = self.strength * generator.uniform(0.9, 1.1)
        return ((1 - share) * image + share * 180).astype(image.dtype)
