# Inference without a GPU, as a service or on folders. See docs/serving.md.
#   docker build -t medfuse .
#   docker run -p 8000:8000 -e MEDFUSE_TOKEN -v "$PWD/runs/liver:/model:ro" medfuse
#   docker run --no-healthcheck -v "$PWD/runs/liver:/model:ro" -v "$PWD/scans:/input:ro" -v "$PWD/labels:/output" \
#       medfuse infer /model --input /input --output /output

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY medfuse ./medfuse
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY constraints.txt /tmp/constraints.txt
# torch without CUDA, of the version that was tested with the rest
RUN pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' /tmp/constraints.txt)"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt \
        "$(ls /wheels/medfuse-*.whl)[serve,dicom,dicomweb,openvino]" \
    && rm -r /wheels /tmp/constraints.txt

RUN useradd --uid 1000 --create-home medfuse \
    && mkdir /cache /output \
    && chown medfuse:medfuse /cache /output
USER 1000
ENV MEDFUSE_CACHE=/cache PYTHONUNBUFFERED=1
WORKDIR /output
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["medfuse"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
