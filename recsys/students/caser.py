"""Caser: convolutions over the latest items as over an image (Tang and Wang, WSDM 2018, eq. 4-10).

Two things differ from the paper, as they do in the code of DLLM2Rec and DROS. There is no user vector, so that users
who were not there in training are served; and what the filters found goes to the expected item by a linear layer
without a rectifier, because item vectors are shared by input and output and have either sign.

Legend: B batch, L history, W window, T = L + W − 1, D width, F filters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.histories import Histories
from recsys.students.config import CaserConfig
from recsys.students.items import TableRecommender


class Caser(TableRecommender):
    """The vectors of the latest items through horizontal and vertical filters.

    A horizontal filter of height h answers to h items in a row, wherever in the window they stand: the largest of its
    answers counts. A vertical one is a weighted sum of the window's items. Every position of a history has the window
    that ends there, filled up by zeros on the left.
    """

    kind = "caser"
    Config = CaserConfig
    config: CaserConfig

    def __init__(self, config: CaserConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        window, horizontal, vertical = config.window, config.horizontal_filters, config.vertical_filters
        heights = range(1, window + 1)
        self.horizontal = nn.ModuleList(nn.Conv1d(config.width, horizontal, height) for height in heights)
        self.vertical = nn.Linear(window, vertical)
        self.out = nn.Linear(window * horizontal + vertical * config.width, config.width)

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        window = self.config.window
        x_BDT = F.pad(self.read(histories, vectors).transpose(1, 2), (window - 1, 0))
        found = []
        for height, convolution in enumerate(self.horizontal, start=1):
            answers = F.relu(convolution(x_BDT))
            # Of two dimensions: torch.export fixes the length of a max_pool1d.
            best = F.max_pool2d(answers[:, :, None], (1, window - height + 1), stride=1)
            found.append(best.squeeze(2))  # [B, F, L]
        vertical_BDLF = self.vertical(x_BDT.unfold(2, window, 1))
        found.append(vertical_BDLF.permute(0, 3, 1, 2).flatten(1, 2))
        features = torch.cat(found, dim=1).transpose(1, 2)
        return self.apply_similarity(self.out(F.dropout(features, self.config.dropout, self.training)))
