"""The deck, slide by slide: what each says, its formula, and which script makes its pictures.

The report is written from this list, and the README's table shows it. A slide appears once the
result in its ``folder`` is there; {smaller} stands for the class that is synthesized, {protocol}
for the protocol of the run.
"""

import dataclasses

DDPM_SCRIPT = "04_train_ddpm"
CVAE, ENHANCED = "cvae", "enhanced_cvae"


@dataclasses.dataclass(frozen=True)
class Slide:
    """One slide: its pictures are files in ``figures/``, its numbers a maker in report.py."""

    title: str
    folder: str  # of the result that it shows, below the output folder
    script: str
    text: str
    formulas: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    numbers: str = ""
    in_deck: bool = True  # False for what goes beyond the deck


CHAPTERS: dict[str, tuple[Slide, ...]] = {
    "The question": (
        Slide(
            "Introduction", "data", "01_explore_data",
            "{larger} is common in this collection, {smaller} is rarer, and a classifier trained "
            "on it learns to answer with the larger class. The deck's idea: let a generative "
            "model paint the missing {smaller} images, and train on real and synthetic "
            "ones together. Whether that helps is a question for the real test set alone.",
        ),
    ),
    "The radiographs": (
        Slide(
            "Dataset", "data", "01_explore_data",
            "Images of two classes. Under the fair protocol everything but test is pooled and "
            "split again by patient, because the official validation folder is too small to "
            "choose anything by.",
            figures=("01_samples", "01_class_means"), numbers="data",
        ),
        Slide(
            "Class imbalance", "data", "01_explore_data",
            "A classifier that always answers with the larger class looks good on such data. What "
            "is missing is counted, not guessed.",
            (r"N_{\mathrm{synthetic}} = N_{\mathrm{larger}} - N_{\mathrm{smaller}}",),
            ("01_class_proportions",),
        ),
        Slide(
            "Why conditional?", CVAE, "02_train_cvae",
            "An unconditional generator would paint what it saw most: {larger}. Given the label, "
            "one model learns what all chests share from both classes and is told which class to "
            "paint. Below, the same z is decoded under both labels: how much does the label say?",
            (r"p(x) = \sum_y p(x \mid y)\, p(y)",),
            ("02_cvae_labels",),
        ),
    ),
    "Conditional VAE": (
        Slide(
            "ELBO and CVAE loss", CVAE, "02_train_cvae",
            "The likelihood of an image is out of reach, a lower bound of it is not: reconstruct "
            "well, and stay close to the prior from which one will sample. Both terms are sums, "
            "over pixels and over latent dimensions, in nats; sigma is learned.",
            (
                r"\ln p(x \mid y) \geq \mathbb{E}_{q(z \mid x, y)}[\ln p(x \mid z, y)] - "
                r"\mathrm{KL}(q(z \mid x, y) \,\Vert\, p(z \mid y))",
                r"\mathcal{L} = \frac{\Vert x - \hat{x} \Vert^2}{2 \sigma^2} + "
                r"\frac{D}{2} \ln (2 \pi \sigma^2) + "
                r"\frac{1}{2} \sum_j (\mu_j^2 + \sigma_j^2 - \ln \sigma_j^2 - 1)",
            ),
            ("02_cvae_loss",),
        ),
        Slide(
            "CVAE: architecture", CVAE, "02_train_cvae",
            "The label enters the encoder as constant planes and the decoder beside z. Drawn from "
            "the trained model.",
            (r"z = \mu + \sigma \odot \epsilon, \quad \epsilon \sim \mathcal{N}(0, I)",),
            ("02_cvae_architecture",),
        ),
        Slide(
            "CVAE: results at epochs 1, 30, 78", CVAE, "02_train_cvae",
            "From grey fog to a blurred chest. The blur does not go away with more epochs: the "
            "decoder returns the mean of all images that z may stand for.",
            (r"\hat{x} = \mathbb{E}[x \mid z, y]",), ("02_cvae_epochs",), "training",
        ),
    ),
    "Enhanced conditional VAE": (
        Slide(
            "Residual blocks", ENHANCED, "03_train_enhanced_cvae",
            "A block learns what to add to its input. Where nothing is to be added it does no "
            "harm, and the gradient reaches early layers unweakened.",
            (r"y = x + f(x)",), ("03_residual_block",),
        ),
        Slide(
            "The enhanced decoder", ENHANCED, "03_train_enhanced_cvae",
            "Residual block, nearest-neighbour upsampling, convolution: every pixel is covered "
            "equally often, where a transposed convolution can leave a checkerboard.",
            (r"h_{k+1} = \mathrm{conv}(\mathrm{up}(h_k + f(h_k)))",),
            ("03_enhanced_cvae_architecture",),
        ),
        Slide(
            "SSIM", ENHANCED, "03_train_enhanced_cvae",
            "Four distortions with the very same mean squared error. To the eye they are not "
            "alike, and structural similarity sees that a little more brightness is next to "
            "nothing, while noise and blur cost structure. A small shift, which no eye would "
            "mind, costs as well: SSIM compares pixels in place.",
            (
                r"\mathrm{SSIM}(x, y) = \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}"
                r"{(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}",
            ),
            ("03_ssim",),
        ),
        Slide(
            "The total loss", ENHANCED, "03_train_enhanced_cvae",
            "The deck leaves beta and lambda open; ours are in the table of settings. With the "
            "SSIM term the sum is no bound on the likelihood; its size depends on lambda.",
            (
                r"\mathcal{L} = \mathrm{reconstruction} + \beta\, \mathrm{KL} + "
                r"\lambda\, (1 - \mathrm{SSIM})",
            ),
            numbers="settings",
        ),
        Slide(
            "Beta", "posterior_collapse", "11_posterior_collapse",
            "Beta sets the price of information in z. Cheap: good reconstructions, but samples "
            "from the prior fall into holes. Dear: fewer nats pass, until z is silent (posterior "
            "collapse) and every sample is the mean chest. Short trainings, other in beta alone.",
            (r"\beta\, \mathrm{KL}(q(z \mid x, y) \,\Vert\, p(z \mid y))",),
            ("11_beta",), "beta",
        ),
        Slide(
            "Early stopping", ENHANCED, "03_train_enhanced_cvae",
            "Training stops when the validation loss has not improved for as many epochs as "
            "`patience` says, and the best epoch is kept. Validation images are never trained on.",
            (r"t^* = \arg\min_t \mathcal{L}_{\mathrm{validation}}(t)",),
            ("03_enhanced_cvae_loss",),
        ),
        Slide(
            "Enhanced CVAE: results at epochs 1, 30, 78", ENHANCED, "03_train_enhanced_cvae",
            "The epochs of the slide, as far as training went before it stopped, and the epoch "
            "that was kept.",
            (), ("03_enhanced_cvae_epochs",), "training",
        ),
    ),
    "DDPM, as in the deck": (
        Slide(
            "DDPM parameters", "ddpm", DDPM_SCRIPT,
            "What the deck fixes, and what it leaves open and we chose. The 32-dimensional time "
            "embedding is the width of the UNet's first block.",
            (r"\beta_t = \beta_1 + \frac{t - 1}{T - 1} (\beta_T - \beta_1)",), (), "parameters",
        ),
        Slide(
            "The noise schedule", "ddpm", DDPM_SCRIPT,
            "How much signal is left after t steps. It should be nothing at T, for sampling starts "
            "from pure noise. The deck's betas were made for 1000 steps and are walked in 200.",
            (r"\alpha_t = 1 - \beta_t, \quad \bar{\alpha}_t = \prod_{s=1}^{t} \alpha_s",),
            ("04_ddpm_schedule",),
        ),
        Slide(
            "Forward process", "ddpm", DDPM_SCRIPT,
            "Noise is added in one stroke for any t. A noisy copy at T looks like pure noise; the "
            "last row, the mean of a hundred copies, shows what of the chest is still in it and "
            "what the network learns to rely on.",
            (
                r"x_t = \sqrt{\bar{\alpha}_t}\, x_0 + \sqrt{1 - \bar{\alpha}_t}\, \epsilon, \quad "
                r"\epsilon \sim \mathcal{N}(0, I)",
            ),
            ("04_ddpm_forward",),
        ),
        Slide(
            "Sampling process", "ddpm", DDPM_SCRIPT,
            "From noise to a chest, one small step after the other.",
            (
                r"x_{t-1} = \mu_\theta(x_t, t) + \sigma_t z, \quad x_T, z \sim \mathcal{N}(0, I)",
            ),
            ("04_ddpm_reverse",),
        ),
        Slide(
            "Reverse formulas", "ddpm", DDPM_SCRIPT,
            "The mean of a step back, from the network's guess of the noise, and its variance, "
            "that of the posterior, were x_0 known.",
            (
                r"\mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}} \left( x_t - "
                r"\frac{\beta_t}{\sqrt{1 - \bar{\alpha}_t}}\, \epsilon_\theta(x_t, t) \right)",
                r"\sigma_t^2 = \beta_t\, \frac{1 - \bar{\alpha}_{t-1}}{1 - \bar{\alpha}_t}",
            ),
        ),
        Slide(
            "UNet: architecture", "ddpm", DDPM_SCRIPT,
            "diffusers' UNet2DModel, drawn from the trained network. It is told t, and at one "
            "resolution every pixel may look at every other (attention).",
            (r"\hat{\epsilon} = \epsilon_\theta(x_t, t)",), ("04_ddpm_unet",),
        ),
        Slide(
            "Training against sampling", "ddpm", DDPM_SCRIPT,
            "Training: take an image, a random t and noise; make x_t in one stroke; guess the "
            "noise; one gradient step. No chain is ever walked. Sampling: start from noise and "
            "walk the chain from T down to 1, one network call a step. Therefore training is "
            "parallel over t and sampling is slow.",
            (
                r"\mathcal{L} = \mathbb{E}_{x_0, \epsilon, t} "
                r"\Vert \epsilon - \epsilon_\theta(\sqrt{\bar{\alpha}_t}\, x_0 + "
                r"\sqrt{1 - \bar{\alpha}_t}\, \epsilon, t) \Vert^2",
            ),
            ("04_ddpm_loss", "04_ddpm_epochs"), "training",
        ),
    ),
    "The same network, mended": (
        Slide(
            "Schedule, target and sampler mended", "ddpm_mended", DDPM_SCRIPT,
            "Betas x 1000 / T leave next to nothing of the signal at T, and the network predicts "
            "v, which stays well defined there. One flag away: --generator ddpm_mended.",
            (r"v = \sqrt{\bar{\alpha}_t}\, \epsilon - \sqrt{1 - \bar{\alpha}_t}\, x_0",),
            (
                "04_ddpm_mended_schedule", "04_ddpm_mended_forward", "04_ddpm_mended_reverse",
                "04_ddpm_mended_epochs", "04_ddpm_mended_loss", "04_ddpm_mended_unet",
            ),
            "training", in_deck=False,
        ),
    ),
    "Which schedule, which scheduler?": (
        Slide(
            "What is left at T, and what that costs", "terminal_snr", "10_terminal_snr",
            "The Gaussian twin has the mean and covariance of the training images, and an exact "
            "denoiser that nobody had to train. What it loses is the schedule's fault alone: "
            "started from pure noise, the deck's schedule makes images too much alike in "
            "brightness. The table has the trained networks beside it.",
            (r"\mathbb{E}[x_0 \mid x_t] = \mu + a\, S (a^2 S + b^2 I)^{-1} (x_t - a \mu), \quad "
             r"a = \sqrt{\bar{\alpha}_t}, \; b = \sqrt{1 - \bar{\alpha}_t}",),
            ("10_snr", "10_x_T", "10_brightness"), "brightness", in_deck=False,
        ),
        Slide(
            "Which sampler, how many steps?", "samplers/ddpm_mended", "05_swap_schedulers",
            "The twin sorts out the samplers that lose spread by themselves; the best ones sample "
            "the trained network. KID compares sets of images by their features (random VGG16); "
            "0 is equal. The choice is made on the validation split, the table shows reference.",
            (r"\mathrm{KID} = \mathbb{E}\,k(x, x^\prime) + \mathbb{E}\,k(y, y^\prime) - "
             r"2\, \mathbb{E}\,k(x, y), \quad k(x, y) = (x^\top y / d + 1)^3",),
            ("05_ddpm_mended_quality_time", "05_ddpm_mended_gallery"), "samplers", in_deck=False,
        ),
    ),
    "Synthetic images": (
        Slide(
            "The complete flow", "synthesis/{protocol}", "run_all",
            "Every box is a step that reads what the one before it wrote.",
            (), ("flow_{protocol}",),
        ),
        Slide(
            "The synthetic {smaller} images", "synthesis/fair", "06_generate_synthetic",
            "Fair protocol: as many as the training split lacks.",
            (), ("06_gallery_fair", "06_brightness_fair"), "synthesis", in_deck=False,
        ),
        Slide(
            "The synthetic {smaller} images for the deck's protocol", "synthesis/deck",
            "06_generate_synthetic", "The same sequences, longer.",
            (), ("06_gallery_deck", "06_brightness_deck"), "synthesis", in_deck=False,
        ),
        Slide(
            "How real are they, and are they copies?", "evaluation", "07_evaluate_generators",
            "What the deck misses: metrics of the generators themselves, on the reference split, "
            "in more than one feature space, each beside as many real images. A number says "
            "little alone: look at what real images score in the same row. The pairs are the "
            "synthetic images closest to a training image.",
            (
                r"\mathrm{FID} = \Vert \mu_x - \mu_y \Vert^2 + \mathrm{tr}(S_x + S_y - "
                r"2 (S_x S_y)^{1/2})",
            ),
            ("07_pairs",), "evaluation", in_deck=False,
        ),
    ),
    "The classifier": (
        Slide(
            "CNN: architecture", "classifier", "08_train_classifier",
            "The deck's small network. Nearly all of its parameters sit in one linear layer.",
            (r"\mathcal{L} = -\ln p_\theta(y \mid x)",), ("08_cnn",), "classifier",
        ),
        Slide(
            "The best recipe, searched without test", "tuning", "13_tune",
            "The same network, other ways to train it. Every recipe is judged on validation "
            "images under sixteen shifts of framing and exposure, all copies pooled: is a "
            "{positive} under one shift scored above the other class under any other? The "
            "criterion was fixed before the search.",
            (), ("13_recipes",), "tuning", in_deck=False,
        ),
        Slide(
            "That recipe on test, once per seed", "tuning/final", "13_tune",
            "Recipe and threshold come from shifted validation images. That framing matters at "
            "all was known from probes of this test set, made before this project was written.",
            numbers="final", in_deck=False,
        ),
    ),
    "Does it help? The deck's protocol": (
        Slide(
            "DDPM + CNN: results", "comparison/deck", "09_compare_augmentation",
            "As the deck prints them, but the mean over seeds; {positive} is the positive class.",
            (
                r"P = \frac{TP}{TP + FP}, \quad R = \frac{TP}{TP + FN}, \quad "
                r"F_1 = \frac{2 P R}{P + R}",
            ),
            ("09_confusion_deck",), "console_ddpm",
        ),
        Slide(
            "CVAE and enhanced CVAE: results", "comparison/deck", "09_compare_augmentation",
            "Original against augmented, as the deck prints them.",
            (r"\mathrm{accuracy} = \frac{TP + TN}{TP + TN + FP + FN}",), (), "console_cvae",
        ),
        Slide(
            "True / Original / Augmented", "comparison/deck", "09_compare_augmentation",
            "Test images on which the classifier with synthetic images and the one without, "
            "trained from the same initial weights, disagree: the first of each kind, not chosen.",
            (), ("09_gallery_deck",),
        ),
        Slide(
            "All arms, all seeds", "comparison/deck", "09_compare_augmentation",
            "A dot is a seed.",
            (), ("09_forest_deck", "09_scores_deck", "09_reliability_deck"),
            "comparison", in_deck=False,
        ),
    ),
    "Does it help? The fair protocol": (
        Slide(
            "Every arm trains equally long", "comparison/fair", "09_compare_augmentation",
            "Splits by patient, the same number of optimizer steps in every arm, the same seeds.",
            (),
            (
                "09_forest_fair", "09_scores_fair", "09_confusion_fair", "09_reliability_fair",
                "09_gallery_fair",
            ),
            "comparison", in_deck=False,
        ),
        Slide(
            "More arms", "comparison/fair/extended", "09_compare_augmentation",
            "Other amounts of synthetic images, both classes synthetic, pretraining on them, the "
            "Gaussian twin, and logit adjustment. Whatever an arm adds, the duplicates are as many "
            "as balance the classes. Fewer seeds; all of it is exploratory.",
            (), ("09_forest_fair_extended", "09_scores_fair_extended"), "comparison",
            in_deck=False,
        ),
        Slide(
            "What is a synthetic image worth?", "comparison/fair/exchange",
            "09_compare_augmentation",
            "Half of the {smaller} patients are hidden from the generator and from the "
            "classifier. Then as many images are given back: synthetic ones, duplicates, or the "
            "hidden ones themselves, which is the most that can be hoped for.",
            (r"x = \frac{m_{\mathrm{synthetic}} - m_{\mathrm{half}}}"
             r"{m_{\mathrm{real}} - m_{\mathrm{half}}}",),
            ("09_forest_fair_exchange", "09_scores_fair_exchange"), "comparison", in_deck=False,
        ),
    ),
    "The deck's slips, kindly": (
        Slide(
            "Formulas, one schedule and one max-pool", "data", "run_all",
            "Everybody who writes slides makes them. The right formula is given to each, with what "
            "would happen if one used it as written.",
            numbers="slips", in_deck=False,
        ),
    ),
}  # fmt: skip
