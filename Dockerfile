# CrashChat with the versions that its tests ran with, flash-attn included:
#   docker build -t crashchat .
#   docker run --gpus all --shm-size=16g -v /data:/data -v $PWD/outputs:/app/outputs crashchat \
#       bash scripts/train/Heterogeneous_multitask_models_all_tasks.sh 8 data_dir=/data
# --shm-size: readers hand frames over in /dev/shm, of which a container has 64 MiB by itself.
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev python3-venv git ninja-build && rm -rf /var/lib/apt/lists/*
WORKDIR /app
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PYTHON=/opt/venv/bin/python
COPY requirements.lock requirements-gpu.txt ./
RUN python3 -m venv /opt/venv && pip install --no-cache-dir setuptools wheel packaging -r requirements.lock \
    && MAX_JOBS=8 pip install --no-cache-dir --no-build-isolation -r requirements-gpu.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .
CMD ["crashchat", "--help"]
