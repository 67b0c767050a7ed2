"""Models, each beside its loss: two conditional VAEs, the DDPM and the deck's classifier."""

from chestx.models.classifier import ChestCNN
from chestx.models.cvae import ConditionalVAE
from chestx.models.enhanced_cvae import EnhancedConditionalVAE

__all__ = ["ChestCNN", "ConditionalVAE", "EnhancedConditionalVAE"]
