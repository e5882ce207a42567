"""UniPC predictor-corrector in data prediction form (Zhao et al. 2023, arXiv:2302.04867).

Times run from 1 (noise) to 0; lambda is half the log signal-to-noise ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Predictor = Callable[[Tensor, Tensor], Tensor]


class NoiseSchedule:
    """Continuous form of a table of alphas, linear in log alpha between its entries."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.log_alpha = 0.5 * torch.log(alphas_cumprod)
        self.total = len(self.log_alpha)
        self.times = torch.linspace(0.0, 1.0, self.total + 1)[1:].to(alphas_cumprod)

    def log_mean(self, t: Tensor) -> Tensor:
        """log of the signal's factor at time t; extrapolates linearly beyond the table."""
        upper = torch.searchsorted(self.times, t).clamp(1, self.total - 1)
        t0, t1 = self.times[upper - 1], self.times[upper]
        y0, y1 = self.log_alpha[upper - 1], self.log_alpha[upper]
        return y0 + (t - t0) * (y1 - y0) / (t1 - t0)

    def alpha(self, t: Tensor) -> Tensor:
        """The signal's factor."""
        return self.log_mean(t).exp()

    def std(self, t: Tensor) -> Tensor:
        """The noise's factor."""
        return torch.sqrt(1.0 - torch.exp(2.0 * self.log_mean(t)))

    def lam(self, t: Tensor) -> Tensor:
        """log of signal over noise."""
        log_mean = self.log_mean(t)
        return log_mean - 0.5 * torch.log(1.0 - torch.exp(2.0 * log_mean))

    def inverse_lam(self, lam: Tensor) -> Tensor:
        """Time at which `lam` is reached."""
        log_mean = -0.5 * torch.logaddexp(torch.zeros_like(lam), -2.0 * lam)
        falling = self.log_alpha.flip(0)
        upper = torch.searchsorted(falling, log_mean).clamp(1, self.total - 1)
        times = self.times.flip(0)
        x0, x1 = falling[upper - 1], falling[upper]
        return times[upper - 1] + (log_mean - x0) * (times[upper] - times[upper - 1]) / (x1 - x0)


@dataclass
class _History:
    """Times and data predictions of the last steps, newest last."""

    times: list[Tensor] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)

    def add(self, t: Tensor, result: Tensor, keep: int) -> None:
        self.times = [*self.times, t][-keep:]
        self.results = [*self.results, result][-keep:]


class UniPC:
    """One solver.

    Args:
        predict_noise: `f(x, timesteps)`, timesteps (b,) in 0 to 999, may be fractional.
        alphas_cumprod: the model's schedule (1000,).
        variant: `bh1` or `bh2`. (The WebUI also lists `vary_coeff`, which fails there.)
        callback: called after each step, as by the other samplers.
    """

    def __init__(
        self,
        predict_noise: Predictor,
        alphas_cumprod: Tensor,
        variant: str = "bh1",
        callback: Callable[[dict], None] | None = None,
    ) -> None:
        if variant not in ("bh1", "bh2"):
            msg = f"UniPC variant is '{variant}', expected bh1 or bh2"
            raise ValueError(msg)
        self.predict_noise = predict_noise
        self.schedule = NoiseSchedule(alphas_cumprod)
        self.variant = variant
        self.callback = callback

    def data_prediction(self, x: Tensor, t: Tensor) -> Tensor:
        """Clean latent at time t (scalar)."""
        timestep = (t - 1.0 / self.schedule.total) * 1000.0
        noise = self.predict_noise(x, timestep.expand(x.shape[0]).to(x))
        return (x - self.schedule.std(t) * noise) / self.schedule.alpha(t)

    def time_steps(self, steps: int, start: float, skip_type: str) -> Tensor:
        """steps + 1 falling times."""
        device = self.schedule.times.device
        end = 1.0 / self.schedule.total
        if skip_type == "time_uniform":
            return torch.linspace(start, end, steps + 1, device=device)
        if skip_type == "time_quadratic":
            return torch.linspace(start**0.5, end**0.5, steps + 1, device=device) ** 2
        if skip_type == "logSNR":
            ends = [self.schedule.lam(torch.tensor(t, device=device)) for t in (start, end)]
            lams = torch.linspace(ends[0].item(), ends[1].item(), steps + 1, device=device)
            return self.schedule.inverse_lam(lams)
        msg = f"UniPC skip type is '{skip_type}', expected time_uniform, time_quadratic or logSNR"
        raise ValueError(msg)

    def sample(
        self,
        x: Tensor,
        steps: int,
        t_start: float | None,
        skip_type: str,
        order: int,
        lower_order_final: bool,
    ) -> Tensor:
        """Walk from `t_start` (None: 1) to the end of the schedule; `steps` evaluations."""
        times = self.time_steps(steps, 1.0 if t_start is None else t_start, skip_type)
        history = _History()
        history.add(times[0], self.data_prediction(x, times[0]), order)
        for step in range(1, steps + 1):
            step_order = min(order, step)
            if lower_order_final and step >= order:
                step_order = min(order, steps + 1 - step)
            x, result = self._update(x, history, times[step], step_order, step < steps)
            if self.callback is not None:
                state = {"x": x, "i": step - 1, "sigma": 0, "sigma_hat": 0, "denoised": result}
                self.callback(state)
            if result is not None:
                history.add(times[step], result, order)
        return x

    def _update(
        self, x: Tensor, history: _History, t: Tensor, order: int, correct: bool
    ) -> tuple[Tensor, Tensor | None]:
        """One step to time t; (x, data prediction at t or None without corrector)."""
        schedule = self.schedule
        now, newest = history.times[-1], history.results[-1]
        lam_now = schedule.lam(now)
        h = schedule.lam(t) - lam_now
        ratios, slopes = [], []
        for i in range(2, order + 1):
            r = (schedule.lam(history.times[-i]) - lam_now) / h
            ratios.append(r)
            slopes.append((history.results[-i] - newest) / r)
        ratios.append(torch.ones_like(h))
        weights = _Weights(torch.stack(ratios), -h, self.variant)

        alpha = schedule.alpha(t)
        base = schedule.std(t) / schedule.std(now) * x - alpha * weights.phi_1 * newest
        predicted = base - alpha * weights.scale * weights.predict(slopes)
        if not correct:
            return predicted, None
        result = self.data_prediction(predicted, t)
        change = weights.correct(slopes, result - newest)
        return base - alpha * weights.scale * change, result


class _Weights:
    """Coefficients of one step; `hh` is minus the step in lambda."""

    def __init__(self, ratios: Tensor, hh: Tensor, variant: str) -> None:
        self.order = len(ratios)
        self.phi_1 = torch.expm1(hh)
        self.scale = {"bh1": hh, "bh2": self.phi_1}[variant]
        rows, right = [], []
        phi, factorial = self.phi_1 / hh - 1, 1.0
        for i in range(1, self.order + 1):
            rows.append(ratios ** (i - 1))
            right.append(phi * factorial / self.scale)
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        self.matrix = torch.stack(rows)
        self.right = torch.stack(right)

    def predict(self, slopes: list[Tensor]) -> Tensor | float:
        """Weighted slopes of the predictor."""
        if not slopes:
            return 0.0
        if self.order == 2:
            weights = self.right.new_tensor([0.5])
        else:
            weights = torch.linalg.solve(self.matrix[:-1, :-1], self.right[:-1])
        return sum(w * slope for w, slope in zip(weights, slopes, strict=True))

    def correct(self, slopes: list[Tensor], newest: Tensor) -> Tensor:
        """Weighted slopes of the corrector."""
        if self.order == 1:
            weights = self.right.new_tensor([0.5])
        else:
            weights = torch.linalg.solve(self.matrix, self.right)
        terms = [*slopes, newest]
        return sum(w * term for w, term in zip(weights, terms, strict=True))
