"""UniPC predictor-corrector in data prediction form (Zhao et al. 2023, arXiv:2302.04867).

Times run from 1 (noise) to 0; lambda is half the log signal-to-noise ratio. Of the WebUI's settings
this is the default: third order, variant bh1, even steps in time, lower order at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Predictor = Callable[[Tensor, Tensor], Tensor]
ORDER = 3


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


@dataclass
class _History:
    """Times and data predictions of the last steps, newest last."""

    times: list[Tensor] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)

    def add(self, t: Tensor, result: Tensor) -> None:
        self.times = [*self.times, t][-ORDER:]
        self.results = [*self.results, result][-ORDER:]


class UniPC:
    """One solver.

    Args:
        predict_noise: `f(x, timesteps)`, timesteps (b,) in 0 to 999, may be fractional.
        alphas_cumprod: the model's schedule (1000,).
        callback: called after each step, as by the other samplers.
    """

    def __init__(
        self,
        predict_noise: Predictor,
        alphas_cumprod: Tensor,
        callback: Callable[[dict], None] | None = None,
    ) -> None:
        self.predict_noise = predict_noise
        self.schedule = NoiseSchedule(alphas_cumprod)
        self.callback = callback

    def data_prediction(self, x: Tensor, t: Tensor) -> Tensor:
        """Clean latent at time t (scalar)."""
        timestep = (t - 1.0 / self.schedule.total) * 1000.0
        noise = self.predict_noise(x, timestep.expand(x.shape[0]).to(x))
        return (x - self.schedule.std(t) * noise) / self.schedule.alpha(t)

    def sample(self, x: Tensor, steps: int, start: float) -> Tensor:
        """Walk from time `start` to the end of the schedule; `steps` evaluations."""
        end = 1.0 / self.schedule.total
        times = torch.linspace(start, end, steps + 1, device=self.schedule.times.device)
        history = _History()
        history.add(times[0], self.data_prediction(x, times[0]))
        for step in range(1, steps + 1):
            step_order = step if step < ORDER else min(ORDER, steps + 1 - step)
            x, result = self._update(x, history, times[step], step_order, step < steps)
            if self.callback is not None:
                state = {"x": x, "i": step - 1, "sigma": 0, "sigma_hat": 0, "denoised": result}
                self.callback(state)
            if result is not None:
                history.add(times[step], result)
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
        weights = _Weights(torch.stack(ratios), -h)

        alpha = schedule.alpha(t)
        base = schedule.std(t) / schedule.std(now) * x - alpha * weights.phi_1 * newest
        predicted = base - alpha * weights.hh * weights.predict(slopes)
        if not correct:
            return predicted, None
        result = self.data_prediction(predicted, t)
        change = weights.correct(slopes, result - newest)
        return base - alpha * weights.hh * change, result


class _Weights:
    """Coefficients of one step; `hh` is minus the step in lambda."""

    def __init__(self, ratios: Tensor, hh: Tensor) -> None:
        self.order = len(ratios)
        self.phi_1 = torch.expm1(hh)
        self.hh = hh
        rows, right = [], []
        phi, factorial = self.phi_1 / hh - 1, 1.0
        for i in range(1, self.order + 1):
            rows.append(ratios ** (i - 1))
            right.append(phi * factorial / hh)
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
