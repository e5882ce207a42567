"""What holds in the embedded A1111 holds in the members of the Forge family: the same tests."""

from __future__ import annotations

from host.test_generation import (  # noqa: F401
    test_and_prompt_rows_are_all_controlled,
    test_control_changes_the_picture_and_nothing_after_it,
    test_control_mode_evaluates_cond_rows_only,
    test_failure_during_sampling_leaves_the_next_run_untouched,
    test_failure_stops_before_sampling_with_a_sentence,
    test_full_region_gives_the_unmasked_picture,
    test_hires_binds_each_pass_to_its_size,
    test_hires_latent_crop_is_followed,
    test_hires_option_limits_the_passes,
    test_img2img_without_own_image_follows_the_picture,
    test_infotext_names_the_unit_that_ran,
    test_inpaint_only_keeps_every_pixel_outside_the_mask,
    test_inpaint_only_masked_crops_the_control_like_the_host,
    test_interrupt_during_sampling_leaves_the_next_run_untouched,
    test_setting_skip_goes_on_without_the_failing_unit,
    test_unit_without_effect_gives_the_plain_picture,
    test_units_sum_in_any_order,
)
from host.test_weight_curve import (  # noqa: F401
    test_each_pass_has_its_own_and_the_parameters_give_both_back,
)
