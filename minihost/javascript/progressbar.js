// Asks the server how far a task is, and shows a bar and the preview.

function randomId() {
    const part = () => Math.random().toString(36).slice(2, 7);
    return `task(${part()}${part()}${part()})`;
}

function formatSeconds(seconds) {
    const two = (x) => String(x).padStart(2, "0");
    const whole = Math.floor(seconds);
    if (whole >= 3600) {
        return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
    }
    return whole >= 60 ? `${Math.floor(whole / 60)}:${two(whole % 60)}` : `${whole}s`;
}

async function askProgress(body) {
    const response = await fetch("./internal/progress", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
    });
    if (!response.ok) {
        throw new Error(`progress: status ${response.status}`);
    }
    return response.json();
}

function progressText(answer) {
    let text = "";
    if (answer.progress > 0) {
        text = `${(answer.progress * 100).toFixed(0)}%`;
    }
    if (answer.eta) {
        text += ` ETA: ${formatSeconds(answer.eta)}`;
    }
    if (answer.textinfo && !answer.textinfo.includes("\n")) {
        text = `${answer.textinfo} ${text}`;
    }
    return text;
}

/**
 * Shows the progress of a task above `progressbarContainer` and its preview in `gallery` until it
 * ends, then calls `atEnd()`. `onProgress(answer)` is called for every answer.
 */
function requestProgress(
    id_task, progressbarContainer, gallery, atEnd, onProgress, inactivityTimeout = 40
) {
    const started = new Date();
    let wasEverActive = false;
    let ended = false;
    const divProgress = document.createElement("div");
    divProgress.className = "progressDiv";
    const divInner = document.createElement("div");
    divInner.className = "progress";
    const divText = document.createElement("div");
    divText.className = "progressText";
    divProgress.append(divInner, divText);
    progressbarContainer.parentNode.insertBefore(divProgress, progressbarContainer);
    let livePreview = null;

    const end = () => {
        if (ended) {
            return;
        }
        ended = true;
        divProgress.remove();
        if (livePreview) {
            livePreview.remove();
        }
        atEnd();
    };

    const showPreview = (source) => {
        if (!livePreview) {
            livePreview = document.createElement("div");
            livePreview.className = "livePreview";
            gallery.insertBefore(livePreview, gallery.firstElementChild);
        }
        const image = new Image();
        image.onload = () => {
            livePreview.appendChild(image);
            while (livePreview.childElementCount > 1) {
                livePreview.removeChild(livePreview.firstElementChild);
            }
        };
        image.src = source;
    };

    const poll = async (id_live_preview) => {
        let answer;
        try {
            answer = await askProgress({ id_task, id_live_preview, live_preview: Boolean(gallery) });
        } catch (error) {
            end();
            return;
        }
        wasEverActive = wasEverActive || answer.active;
        const seconds = (new Date() - started) / 1000;
        const lost = !answer.active && !answer.queued &&
            (wasEverActive || seconds > inactivityTimeout);
        if (answer.completed || lost) {
            end();
            return;
        }
        divInner.style.width = `${(answer.progress || 0) * 100}%`;
        divText.textContent = progressText(answer);
        if (answer.live_preview && gallery) {
            showPreview(answer.live_preview);
        }
        if (onProgress) {
            onProgress(answer);
        }
        const next = answer.id_live_preview ?? id_live_preview;
        setTimeout(() => poll(next), 500);
    };

    poll(0);
}
