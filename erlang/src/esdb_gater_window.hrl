%%% How publications on one channel reach the gateway in use. A row of the table
%%% `esdb_gater_windows', which the acknowledger writes and publishers read.
-record(window, {
    channel :: atom(),
    gateway :: node(),
    %% A process that ends when the gateway is lost, and so tells one use of a gateway from the next.
    session :: pid(),
    acknowledger :: pid(),
    counters :: atomics:atomics_ref(),
    %% Nothing that is published without a token is refused, so nobody has to wait for an answer.
    windowed :: boolean(),
    %% Subscribers of this node get what is published here from the publisher, not from the gateway.
    local :: boolean()
}).

%% Slots of the counters.
-define(SENT, 1).                       % publications that have left their publisher
-define(STATE, 2).                      % one of the following
-define(IDLE, 0).                       % all have been acknowledged
-define(ACTIVE, 1).                     % the acknowledger looks after them
-define(CLOSED, 2).                     % the gateway is not used any more
