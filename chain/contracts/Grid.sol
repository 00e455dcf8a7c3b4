// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @title The grid: who owns what, and which deployment stands for which node.
/// @notice The only authority of Loam. It decides nothing about what runs: it says who may speak
/// for a record, and keeps what they said, so that anyone can prove it from storage.
/// @dev Ed25519 signatures (deployments, node bindings, reports) are checked by those who read
/// them: the EVM has no precompile for Ed25519, and nodes trust keys, not this contract. Records
/// are laid out for `eth_getProof`: every value that a node acts on lies at a slot that can be
/// computed from its key (see `README.md`, "Storage layout").
contract Grid {
    // ------------------------------------------------------------------------------- limits

    /// @notice A person with a laptop, a phone and backups, or a company's release board.
    uint256 public constant MAX_KEYS = 16;

    /// @notice Bytes of a farm's name.
    uint256 public constant MAX_NAME = 64;

    /// @notice Bytes of the text with which a node says where it is reached.
    uint256 public constant MAX_ADDRESSES = 256;

    /// @notice Code of a data contract is at most 24576 bytes (EIP-170), one of which is STOP.
    uint256 public constant MAX_DEPLOYMENT = 24575;

    /// @notice Reports are many; this holds the result of 64 workloads.
    uint256 public constant MAX_REPORT = 8192;

    /// @notice Bounds what a node must read at each change. A farmer who is flooded cancels.
    uint256 public constant MAX_CONTRACTS_PER_NODE = 1024;

    // ------------------------------------------------------------------------------ records

    /// @dev `Unknown` is zero, so that an absent record cannot be taken for one that is there.
    enum ContractState {
        Unknown,
        Created,
        Cancelled,
        Suspended
    }

    /// @dev `Down` is a node's last word in an orderly shutdown; a node that merely falls silent
    /// stays `Up` and is told by its last report.
    enum NodeState {
        Unknown,
        Up,
        Down
    }

    /// @notice A person or a machine that owns things.
    struct Twin {
        address owner;
        /// Weight that the signers of a deployment must reach together.
        uint32 threshold;
        /// Rises with each change of keys.
        uint64 version;
        /// Ed25519 public keys.
        bytes32[] keys;
        /// One for each key.
        uint16[] weights;
    }

    /// @notice The nodes of one farmer.
    struct Farm {
        uint64 twin;
        uint64 policyVersion;
        /// Rises with each change that concerns all of its nodes.
        uint64 revision;
        /// Data contract of the signed `node` deployment for the whole farm; zero if none.
        address policy;
        bytes32 policyHash;
        string name;
    }

    /// @notice What a node offers, in bytes and CPU threads.
    struct Capacity {
        uint64 cpu;
        uint64 memory_; // `memory` is a keyword
        uint64 ssd;
        uint64 hdd;
    }

    struct Node {
        /// The chain account that registered it, whose words are the node's.
        address account;
        uint64 farm;
        NodeState state;
        /// Rises with each change that concerns this node alone; see `nodeRevision`.
        uint64 revision;
        uint64 registeredBlock;
        uint64 lastReportBlock;
        /// X25519 public key to which secrets are sealed (HPKE) and tenants speak (Noise).
        bytes32 hpkeKey;
        Capacity capacity;
        /// Ed25519 signature of the node over its account: R and S. Checked by readers.
        bytes32 bindingR;
        bytes32 bindingS;
        /// Where tenants reach the node; free text.
        string addresses;
    }

    /// @notice One deployment on one node.
    struct ContractRecord {
        uint64 twin;
        uint64 version;
        uint64 createdBlock;
        uint64 updatedBlock;
        bytes32 node;
        /// Data contract that holds the signed deployment.
        address deployment;
        ContractState state;
        /// Version of the deployment that the report speaks about; 0 if there is no report.
        uint64 reportVersion;
        /// Position in the node's list; meaningless once cancelled.
        uint16 nodeIndex;
        /// keccak256 of the deployment's bytes.
        bytes32 deploymentHash;
        /// Data contract that holds the node's last report; zero if none.
        address report;
        uint64 reportBlock;
        /// Position in the twin's list; meaningless once cancelled.
        uint32 twinIndex;
    }

    /// @dev Numbers start at 1, so that 0 means none. Do not reorder: the slots are an interface.
    uint64 public twinCount;
    uint64 public farmCount;
    uint64 public contractCount;

    mapping(uint64 => Twin) private twins;
    mapping(uint64 => Farm) private farms;
    mapping(bytes32 => Node) private nodes;
    mapping(uint64 => ContractRecord) private contracts;

    /// @dev Every contract of a node that is not cancelled, one slot each, so that length and
    /// elements can be proved and an endpoint can neither add nor hide one.
    mapping(bytes32 => uint256[]) private nodeContracts;
    mapping(uint64 => uint256[]) private twinContracts;
    bytes32[] private nodeKeys;

    /// @notice The twin that an account owns; an account owns at most one.
    mapping(address => uint64) public twinOf;
    /// @notice The node that an account speaks for; an account speaks for at most one.
    mapping(address => bytes32) public nodeOf;

    // ------------------------------------------------------------------------------- events

    event TwinRegistered(uint64 indexed twin, address indexed owner);
    event TwinKeysUpdated(uint64 indexed twin, uint64 version);
    event FarmCreated(uint64 indexed farm, uint64 indexed twin);
    event FarmPolicySet(uint64 indexed farm, uint64 version);
    event NodeRegistered(bytes32 indexed node, uint64 indexed farm, address account);
    event ContractCreated(uint64 indexed id, bytes32 indexed node, uint64 indexed twin);
    event ContractUpdated(uint64 indexed id, uint64 version);
    event ContractStateChanged(uint64 indexed id, ContractState state);
    event Reported(uint64 indexed id, uint64 version);

    // ------------------------------------------------------------------------------- errors

    error TwinAlreadyRegistered(uint64 twin);
    error NoTwin(address account);
    error NoSuchTwin(uint64 twin);
    error NoKeys();
    error TooManyKeys(uint256 count, uint256 most);
    error KeysAndWeightsDiffer(uint256 keys, uint256 weights);
    error ZeroKey();
    error ZeroWeight(bytes32 key);
    error DuplicateKey(bytes32 key);
    error ThresholdOutOfReach(uint32 threshold, uint256 weight);
    error NameLength(uint256 length, uint256 most);
    error NoSuchFarm(uint64 farm);
    error NotFarmOwner(uint64 farm, address account);
    error AddressesTooLong(uint256 length, uint256 most);
    error NodeKeyTaken(bytes32 node, address account);
    error AccountHasNode(address account, bytes32 node);
    error NoSuchNode(bytes32 node);
    error NotANode(address account);
    error NotNodeAccount(bytes32 node, address account);
    error NodeFull(bytes32 node, uint256 most);
    error UnexpectedId(uint64 expected, uint64 next);
    error UnexpectedVersion(uint64 given, uint64 next);
    error NoSuchContract(uint64 id);
    error ContractIsCancelled(uint64 id);
    error WrongContractState(uint64 id, ContractState state);
    error NotContractOwner(uint64 id, address account);
    error ReportOfOtherVersion(uint64 given, uint64 current);
    error WrongState();
    error NoBytes();
    error TooManyBytes(uint256 length, uint256 most);
    error DataContractFailed();

    // -------------------------------------------------------------------------------- twins

    /// @notice Makes the caller the owner of a new twin.
    function registerTwin(bytes32[] calldata keys, uint16[] calldata weights, uint32 threshold)
        external
        returns (uint64 id)
    {
        uint64 present = twinOf[msg.sender];
        if (present != 0) revert TwinAlreadyRegistered(present);
        id = ++twinCount;
        twinOf[msg.sender] = id;
        twins[id].owner = msg.sender;
        setKeys(twins[id], keys, weights, threshold);
        emit TwinRegistered(id, msg.sender);
    }

    /// @notice Replaces the keys of the caller's twin.
    function updateTwinKeys(bytes32[] calldata keys, uint16[] calldata weights, uint32 threshold) external {
        uint64 id = callersTwin();
        setKeys(twins[id], keys, weights, threshold);
        emit TwinKeysUpdated(id, twins[id].version);
    }

    /// @dev A twin that can sign nothing, or that anyone can sign for, would be a trap; both are
    /// refused here, because readers could only shrug.
    function setKeys(Twin storage record, bytes32[] calldata keys, uint16[] calldata weights, uint32 threshold)
        private
    {
        if (keys.length == 0) revert NoKeys();
        if (keys.length > MAX_KEYS) revert TooManyKeys(keys.length, MAX_KEYS);
        if (keys.length != weights.length) revert KeysAndWeightsDiffer(keys.length, weights.length);
        uint256 total = 0;
        for (uint256 i = 0; i < keys.length; i++) {
            if (keys[i] == 0) revert ZeroKey();
            if (weights[i] == 0) revert ZeroWeight(keys[i]);
            for (uint256 j = 0; j < i; j++) {
                if (keys[j] == keys[i]) revert DuplicateKey(keys[i]);
            }
            total += weights[i];
        }
        if (threshold == 0 || threshold > total) revert ThresholdOutOfReach(threshold, total);
        record.keys = keys;
        record.weights = weights;
        record.threshold = threshold;
        record.version++;
    }

    // -------------------------------------------------------------------------------- farms

    /// @notice Founds a farm that belongs to the caller's twin.
    function createFarm(string calldata name) external returns (uint64 id) {
        uint64 owner = callersTwin();
        uint256 length = bytes(name).length;
        if (length == 0 || length > MAX_NAME) revert NameLength(length, MAX_NAME);
        id = ++farmCount;
        farms[id].twin = owner;
        farms[id].name = name;
        emit FarmCreated(id, owner);
    }

    /// @notice Stores the signed `node` deployment that stands for every node of a farm. Its
    /// payload names the farm and contract 0.
    function setFarmPolicy(uint64 id, uint64 version, bytes calldata data) external {
        Farm storage record = farms[id];
        if (record.twin == 0) revert NoSuchFarm(id);
        if (!ownsFarm(id, msg.sender)) revert NotFarmOwner(id, msg.sender);
        if (version != record.policyVersion + 1) revert UnexpectedVersion(version, record.policyVersion + 1);
        record.policy = store(data, MAX_DEPLOYMENT);
        record.policyHash = keccak256(data);
        record.policyVersion = version;
        record.revision++;
        emit FarmPolicySet(id, version);
    }

    // -------------------------------------------------------------------------------- nodes

    /// @notice Registers the node with Ed25519 key `key`, or updates what it says of itself.
    /// @dev The first account that names a key keeps it. A stranger who is faster gains nothing
    /// but the name: readers check the binding signature, which only the key's holder can make,
    /// and the node draws a new identity. Whether a farm wants the node is the farmer's word in
    /// a signed deployment, not this function's.
    function registerNode(
        bytes32 key,
        uint64 farm_,
        bytes32 hpkeKey,
        Capacity calldata capacity,
        string calldata addresses,
        bytes32 bindingR,
        bytes32 bindingS
    ) external {
        if (key == 0) revert ZeroKey();
        if (farms[farm_].twin == 0) revert NoSuchFarm(farm_);
        if (bytes(addresses).length > MAX_ADDRESSES) {
            revert AddressesTooLong(bytes(addresses).length, MAX_ADDRESSES);
        }
        Node storage record = nodes[key];
        if (record.account == address(0)) {
            if (nodeOf[msg.sender] != 0) revert AccountHasNode(msg.sender, nodeOf[msg.sender]);
            nodeOf[msg.sender] = key;
            nodeKeys.push(key);
            record.account = msg.sender;
            record.registeredBlock = uint64(block.number);
        } else if (record.account != msg.sender) {
            revert NodeKeyTaken(key, record.account);
        } else if (record.farm != farm_) {
            // Keeps `nodeRevision` rising when the new farm's count is below the old one's.
            record.revision += farms[record.farm].revision;
        }
        record.farm = farm_;
        record.hpkeKey = hpkeKey;
        record.capacity = capacity;
        record.addresses = addresses;
        record.bindingR = bindingR;
        record.bindingS = bindingS;
        record.state = NodeState.Up;
        record.lastReportBlock = uint64(block.number);
        record.revision++;
        emit NodeRegistered(key, farm_, msg.sender);
    }

    /// @notice Says that the caller's node is alive (`Up`) or shuts down in good order (`Down`).
    function heartbeat(NodeState state) external {
        bytes32 key = nodeOf[msg.sender];
        if (key == 0) revert NotANode(msg.sender);
        if (state == NodeState.Unknown) revert WrongState();
        nodes[key].state = state;
        nodes[key].lastReportBlock = uint64(block.number);
    }

    // ---------------------------------------------------------------------------- contracts

    /// @notice Stores version 1 of a deployment for a node, as the caller's twin.
    /// @param expectedId The number that the signed bytes carry. Two tenants who race cannot both
    /// get it; the later one signs again.
    function createContract(uint64 expectedId, bytes32 node_, bytes calldata data) external returns (uint64 id) {
        uint64 owner = callersTwin();
        if (nodes[node_].account == address(0)) revert NoSuchNode(node_);
        id = contractCount + 1;
        if (id != expectedId) revert UnexpectedId(expectedId, id);
        contractCount = id;

        uint256[] storage ofNode = nodeContracts[node_];
        uint256[] storage ofTwin = twinContracts[owner];
        if (ofNode.length >= MAX_CONTRACTS_PER_NODE) revert NodeFull(node_, MAX_CONTRACTS_PER_NODE);

        ContractRecord storage record = contracts[id];
        record.twin = owner;
        record.version = 1;
        record.createdBlock = uint64(block.number);
        record.updatedBlock = uint64(block.number);
        record.node = node_;
        record.state = ContractState.Created;
        record.nodeIndex = uint16(ofNode.length);
        record.twinIndex = uint32(ofTwin.length);
        record.deploymentHash = keccak256(data);
        record.deployment = store(data, MAX_DEPLOYMENT);
        ofNode.push(id);
        ofTwin.push(id);
        nodes[node_].revision++;
        emit ContractCreated(id, node_, owner);
    }

    /// @notice Replaces the deployment of a contract. The version rises by exactly one, so that a
    /// replayed transaction or a lost one is seen.
    function updateContract(uint64 id, uint64 version, bytes calldata data) external {
        ContractRecord storage record = liveContract(id);
        if (!ownsContract(record, msg.sender)) revert NotContractOwner(id, msg.sender);
        if (version != record.version + 1) revert UnexpectedVersion(version, record.version + 1);
        record.version = version;
        record.updatedBlock = uint64(block.number);
        record.deploymentHash = keccak256(data);
        record.deployment = store(data, MAX_DEPLOYMENT);
        nodes[record.node].revision++;
        emit ContractUpdated(id, version);
    }

    /// @notice Ends a contract for good.
    /// @dev Also open to the farmer: a farmer can pull the plug anyway, and must be able to free
    /// a list that a flood filled.
    function cancelContract(uint64 id) external {
        ContractRecord storage record = liveContract(id);
        if (!ownsContract(record, msg.sender) && !ownsFarm(nodes[record.node].farm, msg.sender)) {
            revert NotContractOwner(id, msg.sender);
        }
        record.state = ContractState.Cancelled;
        record.updatedBlock = uint64(block.number);

        // The last element moves into the hole, so that lists stay dense and cheap to prove.
        uint256[] storage ofNode = nodeContracts[record.node];
        uint256 moved = ofNode[ofNode.length - 1];
        ofNode[record.nodeIndex] = moved;
        contracts[uint64(moved)].nodeIndex = record.nodeIndex;
        ofNode.pop();

        uint256[] storage ofTwin = twinContracts[record.twin];
        moved = ofTwin[ofTwin.length - 1];
        ofTwin[record.twinIndex] = moved;
        contracts[uint64(moved)].twinIndex = record.twinIndex;
        ofTwin.pop();

        nodes[record.node].revision++;
        emit ContractStateChanged(id, ContractState.Cancelled);
    }

    /// @notice Stops a contract's workloads without deleting their data; for the farmer.
    function suspendContract(uint64 id) external {
        switchState(id, ContractState.Created, ContractState.Suspended);
    }

    /// @notice Lets a suspended contract go on; for the farmer.
    function resumeContract(uint64 id) external {
        switchState(id, ContractState.Suspended, ContractState.Created);
    }

    function switchState(uint64 id, ContractState from, ContractState to) private {
        ContractRecord storage record = liveContract(id);
        uint64 farm_ = nodes[record.node].farm;
        if (!ownsFarm(farm_, msg.sender)) revert NotFarmOwner(farm_, msg.sender);
        if (record.state != from) revert WrongContractState(id, record.state);
        record.state = to;
        record.updatedBlock = uint64(block.number);
        nodes[record.node].revision++;
        emit ContractStateChanged(id, to);
    }

    /// @notice Stores what the node says about a contract, signed by the node itself.
    /// @dev Does not raise the node's revision: the node knows what it said.
    function report(uint64 id, uint64 version, bytes calldata data) external {
        ContractRecord storage record = liveContract(id);
        if (nodes[record.node].account != msg.sender) revert NotNodeAccount(record.node, msg.sender);
        // A node that lags may still speak of an older version, never of one that is not there.
        if (version == 0 || version > record.version) revert ReportOfOtherVersion(version, record.version);
        record.report = store(data, MAX_REPORT);
        record.reportVersion = version;
        record.reportBlock = uint64(block.number);
        nodes[record.node].lastReportBlock = uint64(block.number);
        emit Reported(id, version);
    }

    // ------------------------------------------------------------------------------ reading

    function twin(uint64 id) external view returns (Twin memory) {
        return twins[id];
    }

    function farm(uint64 id) external view returns (Farm memory) {
        return farms[id];
    }

    function node(bytes32 key) external view returns (Node memory) {
        return nodes[key];
    }

    /// @notice A number that is higher after every change that concerns the node: its record,
    /// its contracts, its farm's policy. While it stands still there is nothing to read.
    function nodeRevision(bytes32 key) external view returns (uint64) {
        return nodes[key].revision + farms[nodes[key].farm].revision;
    }

    function nodeCount() external view returns (uint256) {
        return nodeKeys.length;
    }

    /// @notice At most `count` nodes from position `from` on, in the order of registration.
    function nodesFrom(uint256 from, uint256 count)
        external
        view
        returns (bytes32[] memory keys, Node[] memory records)
    {
        uint256 end = pageEnd(from, count, nodeKeys.length);
        keys = new bytes32[](end - from);
        records = new Node[](end - from);
        for (uint256 i = from; i < end; i++) {
            keys[i - from] = nodeKeys[i];
            records[i - from] = nodes[nodeKeys[i]];
        }
    }

    /// @dev Named so because `contract` is a keyword.
    function contractRecord(uint64 id) external view returns (ContractRecord memory) {
        return contracts[id];
    }

    /// @notice How many contracts a node has that are not cancelled.
    function nodeContractCount(bytes32 key) external view returns (uint256) {
        return nodeContracts[key].length;
    }

    /// @notice At most `count` contracts of a node from position `from` on, with their records.
    function nodeContractsFrom(bytes32 key, uint256 from, uint256 count)
        external
        view
        returns (uint64[] memory ids, ContractRecord[] memory records)
    {
        return recordsFrom(nodeContracts[key], from, count);
    }

    function twinContractCount(uint64 id) external view returns (uint256) {
        return twinContracts[id].length;
    }

    function twinContractsFrom(uint64 id, uint256 from, uint256 count)
        external
        view
        returns (uint64[] memory ids, ContractRecord[] memory records)
    {
        return recordsFrom(twinContracts[id], from, count);
    }

    function recordsFrom(uint256[] storage list, uint256 from, uint256 count)
        private
        view
        returns (uint64[] memory ids, ContractRecord[] memory records)
    {
        uint256 end = pageEnd(from, count, list.length);
        ids = new uint64[](end - from);
        records = new ContractRecord[](end - from);
        for (uint256 i = from; i < end; i++) {
            ids[i - from] = uint64(list[i]);
            records[i - from] = contracts[uint64(list[i])];
        }
    }

    /// @dev Never below `from`, so that a page past the end is empty instead of a revert.
    function pageEnd(uint256 from, uint256 count, uint256 length) private pure returns (uint256) {
        if (from >= length) return from;
        return count < length - from ? from + count : length;
    }

    // ------------------------------------------------------------------------------- shared

    function callersTwin() private view returns (uint64 id) {
        id = twinOf[msg.sender];
        if (id == 0) revert NoTwin(msg.sender);
    }

    function ownsFarm(uint64 id, address account) private view returns (bool) {
        uint64 owner = farms[id].twin;
        return owner != 0 && twins[owner].owner == account;
    }

    function ownsContract(ContractRecord storage record, address account) private view returns (bool) {
        return twins[record.twin].owner == account;
    }

    function liveContract(uint64 id) private view returns (ContractRecord storage record) {
        record = contracts[id];
        if (record.state == ContractState.Unknown) revert NoSuchContract(id);
        if (record.state == ContractState.Cancelled) revert ContractIsCancelled(id);
    }

    /// @dev Stores bytes as the code of a new contract (SSTORE2): a third of the price of slots,
    /// one proof for all of them. The code is STOP (so that nobody can run it) and the bytes.
    function store(bytes calldata data, uint256 most) private returns (address pointer) {
        if (data.length == 0) revert NoBytes();
        if (data.length > most) revert TooManyBytes(data.length, most);
        // PUSH1 11 MSIZE DUP2 CODESIZE SUB DUP1 SWAP3 MSIZE CODECOPY RETURN: returns all code
        // that follows these 11 bytes.
        bytes memory creation = abi.encodePacked(bytes12(0x600b5981380380925939f300), data);
        assembly ("memory-safe") {
            pointer := create(0, add(creation, 32), mload(creation))
        }
        if (pointer == address(0)) revert DataContractFailed();
    }
}
